"""Winsen's MH-Z19 and ZE07, written from the protocol sheet: answers, placeholders of the start, uploads."""

from __future__ import annotations

import asyncio
import time
from typing import Any, Final

from trisense.sims.base import End, Simulator, Told, together

__all__ = ["Winsen"]

REQUEST_BYTES: Final = 9
BOOT_U: Final = 15_000
PLACEHOLDER_PPM: Final = 410
CASE_WARMER: Final = 6.0
"""Cel by which the case is warmer than the air."""


class Winsen(Simulator):
    """MH-Z19 (``model=mhz19``), ``ze07-ch2o`` or ``ze07-co`` at 9600 8N1; a ZE07 begins sending by itself.

    For ``boot_s`` an MH-Z19 tells a placeholder; ``tells_boot=false`` keeps quiet about it, as B and C do.
    """

    kind = "winsen"

    def __init__(
        self,
        *,
        model: str = "mhz19",
        boot_s: float = 60.0,
        tells_boot: bool = True,
        upload_s: float = 1.0,
        **base: Any,
    ) -> None:
        super().__init__(**base)
        if model not in ("mhz19", "ze07-ch2o", "ze07-co"):
            raise ValueError(f"model {model!r}: mhz19, ze07-ch2o or ze07-co")
        self.model = model
        self.boot_s = boot_s
        self.tells_boot = tells_boot
        self.upload_s = upload_s
        self.uploads = model != "mhz19"
        self.commands: list[int] = []
        """What the host has had it do, reads left out."""
        self.boot()

    def boot(self) -> None:
        """Lose the power and get it back."""
        self._booted = time.monotonic()
        self.uploads = self.model != "mhz19"

    async def talk(self, end: End) -> None:
        await together(self._upload(end), self._obey(end))

    async def _upload(self, end: End) -> None:
        while True:
            await asyncio.sleep(self.upload_s)
            if not self.uploads:
                continue
            if self.model == "ze07-co":
                raw = self._co_tenths_ppm()
                told, head, full = {"co": raw * 100.0}, b"\x04\x03\x01", 5000
            else:
                raw = self._hcho_ppb()
                told, head, full = {"hcho": float(raw)}, b"\x17\x04\x00", 2000
            body = head + raw.to_bytes(2, "big") + full.to_bytes(2, "big")
            await self._send(end, body, Told("air_quality", told))

    async def _obey(self, end: End) -> None:
        heard = b""
        while True:
            heard = (heard + await end.read())[-64:]
            while (at := heard.find(b"\xff\x01")) >= 0 and len(heard) - at >= REQUEST_BYTES:
                asked, heard = heard[at : at + REQUEST_BYTES], heard[at + REQUEST_BYTES :]
                if sum(asked[1:]) % 256 == 0:
                    await self._do(end, asked[2], asked[3])

    async def _do(self, end: End, code: int, value: int) -> None:
        if code != 0x86:
            self.commands.append(code)
        if code == 0x78 and self.model != "mhz19":
            self.uploads = value == 0x40
        elif code == 0x86 and not self.uploads:
            body, told = self._reading()
            await self._send(end, b"\x86" + body, Told("air_quality", told))

    def _reading(self) -> tuple[bytes, dict[str, float]]:
        """Bytes 2 to 7 of a reply, and what they tell."""
        if self.model == "ze07-co":
            raw = self._co_tenths_ppm()
            return raw.to_bytes(2, "big") + bytes(4), {"co": raw * 100}
        if self.model == "ze07-ch2o":
            ppb = self._hcho_ppb()
            mass = round(ppb * 1.23)
            body = mass.to_bytes(2, "big") + bytes(2) + ppb.to_bytes(2, "big")
            return body, {"hcho": ppb, "hcho_mass": mass}
        now = self.now_ns()
        case = round(self.world.weather(now).air_temperature + CASE_WARMER)
        booting = time.monotonic() - self._booted < self.boot_s
        ppm = PLACEHOLDER_PPM if booting else round(self.world.air_quality(now).co2)
        u = BOOT_U if booting and self.tells_boot else 0
        body = ppm.to_bytes(2, "big") + bytes((case + 40, 0)) + u.to_bytes(2, "big")
        return body, {} if booting else {"co2": ppm, "internal_temperature": case}

    def _co_tenths_ppm(self) -> int:
        return round(self.world.air_quality(self.now_ns()).no2 / 10)

    def _hcho_ppb(self) -> int:
        return round(self.world.air_quality(self.now_ns()).no2 / 3)

    async def _send(self, end: End, body: bytes, told: Told) -> None:
        await end.send(b"\xff" + body + bytes((-sum(body) % 256,)), told)
