"""A PN532 NFC module on a UART, written from the sheet: acknowledgements, answers, cards that come and go."""

from __future__ import annotations

from typing import Any, Final

from trisense.sims.base import End, Simulator, Told
from trisense.sims.world import Passage

__all__ = ["Pn532"]

HELD_S: Final = 4.0
MAX_CARDS: Final = 2
ACK: Final = bytes.fromhex("0000ff00ff00")
WAKE: Final = b"\x55\x55"
SYNTAX_ERROR: Final = bytes.fromhex("0000ff01ff7f8100")
KINDS: Final = ((4, 0x08, "0004"), (7, 0x00, "0044"), (7, 0x20, "0344"), (4, 0x20, "0004"))
"""UID bytes, SEL_RES and SENS_RES; the last kind makes its number up each time."""
RANDOM: Final = 3
ATS: Final = bytes.fromhex("067577810280")


class Pn532(Simulator):
    """PN532 in HSU mode at 115200 8N1; ``cards_per_hour`` are held to it, each for four seconds."""

    kind = "pn532"
    baud = 115_200

    def __init__(self, *, cards_per_hour: float = 600.0, asleep: bool = True, **base: Any) -> None:
        super().__init__(**base)
        self.cards_per_hour = cards_per_hour
        self.asleep = asleep
        self.retries = 0xFF
        """Tries to find a card; with 255 it waits for one and says nothing."""

    async def talk(self, end: End) -> None:
        heard = b""
        while True:
            heard = (heard + await end.read())[-600:]
            if self.asleep:  # what comes before the call is not heard
                _, call, behind = heard.partition(WAKE)
                self.asleep, heard = not call, behind if call else heard[-1:]
            while (at := heard.find(b"\x00\xff")) >= 0 and len(heard) >= at + 3:
                size = heard[at + 2] + 5
                if len(heard) < at + size:
                    break
                body, heard = heard[at + 4 : at + size], heard[at + size :]
                if body[:1] == b"\xd4" and sum(body) % 256 == 0:
                    await self._do(end, body[1], body[2:-1])

    async def _do(self, end: End, code: int, data: bytes) -> None:
        await end.write(ACK)
        if code == 0x14:
            await end.send(self._frame(code + 1), check=-2)
        elif code == 0x02:
            await end.send(self._frame(code + 1, bytes.fromhex("32010607")), check=-2)
        elif code == 0x32 and data[:1] == b"\x05":
            self.retries = data[3]
            await end.send(self._frame(code + 1), check=-2)
        elif code == 0x4A:
            await self._list(end)
        else:
            await end.write(SYNTAX_ERROR)

    async def _list(self, end: End) -> None:
        cards = self._cards()
        if not cards and self.retries == 0xFF:
            return
        data, told = bytes((len(cards),)), []
        for number, card in enumerate(cards, 1):
            part, row = self._card(number, card)
            data += part
            told.append(row)
        await end.send(self._frame(0x4B, data), *told, check=-2)

    def _cards(self) -> list[Passage]:
        passing = self.world.passing(
            "card", self.now_ns(), per_hour=lambda _: self.cards_per_hour, lasts_s=HELD_S
        )
        return list(passing)[:MAX_CARDS]

    def _card(self, number: int, card: Passage) -> tuple[bytes, Told]:
        """A card's part of the answer and what it tells."""
        kind = card.random.randrange(len(KINDS))
        size, sel_res, sens_res = KINDS[kind]
        own = bytes((card.random.randrange(0x10, 0xF0),)) + card.random.randbytes(size - 1)
        uid = b"\x08" + self.random.randbytes(3) if kind == RANDOM else own
        part = bytes((number,)) + bytes.fromhex(sens_res) + bytes((sel_res, size)) + uid
        values: dict[str, str | int] = {
            "uid_kind": "random" if kind == RANDOM else "fixed",
            "sel_res": sel_res,
        }
        if kind != RANDOM:
            values["uid"] = uid.hex()
        return part + (ATS if sel_res & 0x20 else b""), Told("tag_sighting", values)

    @staticmethod
    def _frame(code: int, data: bytes = b"") -> bytes:
        body = bytes((0xD5, code)) + data
        head = b"\x00\x00\xff" + bytes((len(body), -len(body) % 256))
        return head + body + bytes((-sum(body) % 256, 0))
