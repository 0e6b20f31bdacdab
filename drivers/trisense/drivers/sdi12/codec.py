"""Replies of SDI-12 sensors: text lines of 7 bits, with a CRC of three letters where it was asked for."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any, Final

from trisense.drivers.framing import Cut, Decoder, FramedCodec
from trisense.drivers.sdi12_crc import crc
from trisense.drivers.sdk import Frame, Observed
from trisense.drivers.wxt.codec import rows
from trisense.drivers.wxt.fields import GROUPS

__all__ = ["Sdi12Codec", "Sdi12Decoder", "WxtSdi12Codec"]

JUNK: Final = b"\x00\xff"
"""What the break before a command leaves in front of the reply."""
VALUE: Final = r"[+-](?:\d{1,7}(?:\.\d{0,6})?|\.\d{1,7})"
DATA: Final = re.compile(rf"([0-9A-Za-z])((?:{VALUE})+)")
CHECKED: Final = re.compile(rf"([0-9A-Za-z])((?:{VALUE})*)([@-\x7f]{{3}})$")
ANNOUNCED: Final = re.compile(r"([0-9A-Za-z])(\d{3})(\d{1,2})")
ALIVE: Final = re.compile(r"[0-9A-Za-z]")
IDENTIFIED: Final = re.compile(r"([0-9A-Za-z])(\d)(\d)([ -~]{8})([ -~]{6})([ -~]{3})([ -~]{0,13})")


class Sdi12Decoder(Decoder):
    max_frame = 128
    """Longest reply, 81 characters, behind the echo of its command."""

    def cut(self, data: bytes, start: int) -> Cut | None:
        end = data.find(b"\n", start, start + self.max_frame)
        if end < 0:
            return None
        line, size = data[start : end + 1].lstrip(JUNK), end + 1 - start
        text = _seven_bits(line)
        if text is None:
            return Cut(size, damage="parity")
        reply = text.rpartition("!")[2].rstrip("\r\n")  # adapters on one wire give the command back
        return _judge(reply, size) if reply else Cut(size)


def _seven_bits(line: bytes) -> str | None:
    """The text; None where a parity bit is wrong.

    The bus has 7 bits and even parity. A port that was opened with 8 bits shows the parity bits; where
    none is set, they were checked already or there are none.
    """
    if line.isascii():
        return line.decode("ascii")
    if any(byte.bit_count() % 2 for byte in line):
        return None
    return bytes(byte & 0x7F for byte in line).decode("ascii")


def _judge(reply: str, size: int) -> Cut:
    identified = IDENTIFIED.fullmatch(reply)
    if identified is not None:
        address, major, minor, vendor, model, version, serial = identified.groups()
        told = {"vendor": vendor, "model": model, "version": version, "serial": serial}
        return Cut(size, {"address": address, "sdi_version": f"{major}.{minor}", **told})
    checked = CHECKED.search(reply)  # noise may stand in front: the CRC tells
    if checked is not None:
        if crc(checked[0][:-3].encode()) != checked[3].encode():
            return Cut(size, damage="crc")
        return Cut(size, {**_data(checked), "crc_ok": True})
    frame = _unchecked(reply)
    return Cut(size, damage="format") if frame is None else Cut(size, frame)


def _unchecked(reply: str) -> Frame | None:
    """What comes without a CRC; None for another form."""
    plain = DATA.fullmatch(reply)
    if plain is not None:
        return _data(plain)
    announced = ANNOUNCED.fullmatch(reply)
    if announced is not None:
        address, ready, count = announced.groups()
        return {"address": address, "ready_s": int(ready), "count": int(count)}
    return {"address": reply} if ALIVE.fullmatch(reply) else None


def _data(found: re.Match[str]) -> Frame:
    values = re.findall(VALUE, found[2])
    decimals = [len(value.partition(".")[2]) for value in values]
    return {"address": found[1], "data": [float(value) for value in values], "decimals": decimals}


class Sdi12Codec(FramedCodec):
    decoder = Sdi12Decoder

    def observed(self, frame: Frame) -> Sequence[Observed]:
        """Values by their number: what they are, only the configuration says."""
        if not frame.get("data"):
            return ()
        return (Observed("sdi12", {f"value_{i}": value for i, value in enumerate(frame["data"], 1)}),)

    def encode(self, expected: Mapping[str, Any]) -> bytes | None:
        command = expected.get("command")
        return f"{expected.get('address', '0')}{command}!".encode() if isinstance(command, str) else None


WXT_FORMS: Final[Mapping[tuple[int, ...], Sequence[str]]] = {
    (0, 0, 0, 1, 1, 1): GROUPS["wind"],
    (1, 1, 1): (GROUPS["ptu"][0], *GROUPS["ptu"][2:]),
    (1, 1, 1, 1): GROUPS["ptu"],
    (2, 0, 1, 1, 0, 1): GROUPS["rain"][:6],
    (2, 0, 1, 1, 0, 1, 1, 1): GROUPS["rain"],
    (1, 1, 1, 3): GROUPS["supervisor"],
}
"""In metric units each quantity has its own number of decimals, which tell the group."""


class WxtSdi12Codec(Sdi12Codec):
    """Replies of a Vaisala WXT520 or WXT530, whose groups are known by their form."""

    def frames(self, data: bytes) -> Sequence[Frame]:
        return [_named(frame) for frame in super().frames(data)]

    def observed(self, frame: Frame) -> Sequence[Observed]:
        return rows([frame]) if "values" in frame else super().observed(frame)


def _named(frame: Frame) -> Frame:
    names = WXT_FORMS.get(tuple(frame.get("decimals", ())))
    return frame if names is None else {**frame, "values": dict(zip(names, frame["data"], strict=True))}
