"""Who plays the device: what it says to what it hears, by the examples of a contract."""

from __future__ import annotations

import asyncio
from abc import ABC, abstractmethod
from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass

from trisense.drivers.kit.contract import Conformance, Example, Exchange, Row
from trisense.drivers.kit.stage import Stage

__all__ = ["Device", "Fault", "Player", "Reply", "Spoken", "TablePlayer"]

HEARD_BYTES = 65_536


@dataclass(frozen=True, slots=True)
class Reply:
    """What the device says next."""

    data: bytes
    checked: tuple[int, int] | None = None
    last: bool = False
    """With it the example is told in full."""
    key: Hashable = None
    """Which part of the example it is; said again, it makes up for an earlier one that was damaged."""
    handshake: bool = False
    """It belongs to no example and is never damaged."""


@dataclass(frozen=True, slots=True)
class Spoken:
    """A frame as it goes out."""

    pieces: Sequence[bytes]
    good: bool = True
    """False: nothing of it may be told."""
    pause_s: float = 0.0
    """Before each piece but the first."""


Fault = Callable[[Reply], Spoken]
"""What becomes of a frame on its way."""


def as_it_is(reply: Reply) -> Spoken:
    return Spoken([reply.data])


class Player(ABC):
    """The device's side of its protocol. ``turn`` goes on to the next example."""

    speaks: bool
    """It sends frames by itself; else it only answers."""
    greeting: bytes = b""
    settle: int = 0
    """Examples after each connection that may give no rows."""

    def __init__(self) -> None:
        self.started = asyncio.Event()
        """It would send frames now."""

    @abstractmethod
    def rows(self) -> Sequence[Row]:
        """What the present example must give."""

    @abstractmethod
    def turn(self) -> None:
        """Go on to the next example, round and round."""

    @abstractmethod
    def hear(self, heard: bytearray) -> Sequence[Reply]:
        """Take what is understood out of ``heard``, and give the replies to it."""

    def frames(self) -> Sequence[Reply]:
        """What it sends by itself in the present example."""
        return ()

    @abstractmethod
    def foreign(self, reply: Reply) -> bytes:
        """A good frame of another unit in the place of ``reply``; empty where there is none."""

    def reset(self) -> None:  # noqa: B027  # most players have nothing to forget
        """A host has connected anew."""


class TablePlayer(Player):
    """Plays a ``conformance.toml``."""

    def __init__(self, contract: Conformance, examples: Sequence[Example]) -> None:
        super().__init__()
        self._contract = contract
        self._examples = examples
        self._at = 0
        self._asked = 0
        self._foreign = 0
        self.speaks = bool(examples[0].frames)
        self.greeting = contract.greeting
        self.settle = contract.settle
        self.reset()

    @property
    def _example(self) -> Example:
        return self._examples[self._at]

    def reset(self) -> None:
        self._asked = 0
        if self._contract.starts_with is None:
            self.started.set()
        else:
            self.started.clear()

    def rows(self) -> Sequence[Row]:
        return self._example.rows

    def turn(self) -> None:
        self._at = (self._at + 1) % len(self._examples)
        self._asked = 0

    def frames(self) -> Sequence[Reply]:
        frames = self._example.frames
        end = len(frames) - 1
        return [Reply(frame, self._example.checked, i == end, i) for i, frame in enumerate(frames)]

    def hear(self, heard: bytearray) -> Sequence[Reply]:
        start = self._contract.starts_with
        if start is not None and start.search(heard):
            self.started.set()
        replies = []
        while (found := self._first(heard)) is not None:
            end, exchange, own = found
            del heard[:end]
            replies.append(self._reply(exchange, own=own))
        return replies

    def _first(self, heard: bytearray) -> tuple[int, Exchange, bool] | None:
        """The exchange that was asked for first: where its question ends, and whether it is the example's."""
        example = self._example.exchange
        # The same question may have another answer later in one example: those asked already come last.
        own = [*example[self._asked :], *example[: self._asked]]
        found = [
            (match.end(), exchange, any(exchange is one for one in example))
            for exchange in (*own, *self._contract.exchange)
            if (match := exchange.ask.search(heard)) is not None
        ]
        return min(found, key=lambda one: one[0], default=None)

    def _reply(self, exchange: Exchange, *, own: bool) -> Reply:
        if not own:
            return Reply(exchange.reply, handshake=True)
        example = self._example
        at = next(i for i, one in enumerate(example.exchange) if one is exchange)
        self._asked = at + 1
        return Reply(exchange.reply, example.checked, self._asked == len(example.exchange), at)

    def foreign(self, reply: Reply) -> bytes:  # noqa: ARG002  # the player's signature
        if not self._contract.foreign:
            return b""
        self._foreign += 1
        return self._contract.foreign[self._foreign % len(self._contract.foreign)]


class Device:
    """A player on a stage; faults are done to what it says on the way."""

    def __init__(self, stage: Stage, player: Player, *, goes_on: bool) -> None:
        self.stage = stage
        self.player = player
        self.mute = False
        """It hears and says nothing."""
        self.told_good: list[Row] = []
        """Rows of all examples that were told in full and undamaged, in order."""
        self.answers = 0
        """Replies of the present example so far."""
        self.served = asyncio.Event()
        """Set when an example has been told in full, damaged or not."""
        self.settling = 0
        """Examples from now on that may give no rows."""
        self._goes_on = goes_on
        self._fault: Fault | None = None
        self._fault_at = 0
        self._spoiled: set[Hashable] = set()
        self._said: set[Hashable] = set()
        self._needed: set[Hashable] = set()
        """Parts that the first undamaged example had: damage to a probe beside them spoils nothing."""
        self._heard = bytearray()
        self._out: asyncio.Queue[Reply] = asyncio.Queue()
        stage.on_bytes = self._hear
        stage.on_host = self._welcome

    @property
    def good(self) -> bool:
        """The present example has been told without damage, as far as it went."""
        return self.answers > 0 and not (self._spoiled & self._needed if self._needed else self._spoiled)

    def arm(self, fault: Fault, *, at: int = 0) -> None:
        """Do ``fault`` to one reply: number ``at`` of the present example, or the last there is."""
        self._fault, self._fault_at = fault, at

    def turn(self) -> None:
        """Go on to the next example."""
        self.player.turn()
        self.answers = 0
        self._spoiled.clear()
        self._said.clear()

    def due(self) -> None:
        """The present example has been told in full: its rows must come."""
        if not self._needed and not self._spoiled:
            self._needed = set(self._said)
        rows = self.player.rows()
        if self.settling > 0:
            self.settling -= 1
            rows = [row.model_copy(update={"optional": True}) for row in rows]
        self.told_good += rows

    def forget(self) -> None:
        """It was switched off: what it had heard and had to say is gone."""
        self._heard.clear()
        while not self._out.empty():
            self._out.get_nowait()
            self._out.task_done()
        self.player.reset()

    def _welcome(self) -> None:
        self.forget()
        if self.player.greeting:
            self._out.put_nowait(Reply(self.player.greeting, handshake=True))

    def _hear(self, data: bytes) -> None:
        self._heard += data
        del self._heard[:-HEARD_BYTES]
        for reply in self.player.hear(self._heard):
            self._out.put_nowait(reply)

    async def answer(self) -> None:
        """Say what it is asked for, for ever."""
        while True:
            reply = await self._out.get()
            try:
                if self.mute:
                    self._spoiled.add(reply.key)
                elif reply.handshake:
                    await self.stage.send(reply.data)
                else:
                    await self._answer(reply)
            finally:
                self._out.task_done()

    async def _answer(self, reply: Reply) -> None:
        fault: Fault = as_it_is
        if self._fault is not None and (self.answers >= self._fault_at or reply.last):
            fault, self._fault = self._fault, None
        self.answers += 1
        await self._say(fault, reply)
        if reply.last and self._goes_on:
            self.turn()
            self.served.set()

    async def speak(self, fault: Fault = as_it_is) -> None:
        """Send the frames of the next example."""
        await self.player.started.wait()
        await self._out.join()  # it acknowledges before it begins
        self.turn()
        for frame in self.player.frames():
            self.answers += 1
            await self._say(fault, frame)

    async def _say(self, fault: Fault, reply: Reply) -> None:
        spoken = fault(reply)
        self._said.add(reply.key)
        if spoken.good:
            self._spoiled.discard(reply.key)
        else:
            self._spoiled.add(reply.key)
        if reply.last and self.good and (self._goes_on or self.player.speaks):
            self.due()  # before the bytes, which may be read at once
        for index, piece in enumerate(spoken.pieces):
            if index:
                await asyncio.sleep(spoken.pause_s)
            await self.stage.send(piece)
