"""Commands: let in, done one at a time for each device, answered once and for all."""

from __future__ import annotations

import asyncio
import math
from collections import OrderedDict
from typing import Final
from weakref import WeakValueDictionary

import structlog
from pydantic import JsonValue
from trisense.core import topics
from trisense.core.errors import LinkError, RemoteError, TrisenseError
from trisense.core.remote import (
    REPLY_BYTES,
    Command,
    Failure,
    OneDevice,
    Reply,
    Verb,
    command_of,
)
from trisense.edge.clocks.clock import Clock
from trisense.edge.once import Fault
from trisense.edge.remote.door import closed
from trisense.edge.remote.verbs import Hands, Verbs

__all__ = ["Commands"]

log = structlog.get_logger(__name__)

WAITING_MAX: Final = 16
"""Commands at work or waiting for their turn; at the limit the newest is refused (``refuse_newest``)."""
ANSWERED_MAX: Final = 128
ANSWERED_BYTES: Final = 1 << 20
"""Answers kept for whoever asks again with the same id; the oldest go."""
LIMIT_S: Final[dict[Verb, float]] = {
    "read": 60.0,
    "snapshot": 60.0,
    "restart": 20.0,
    "log-level": 5.0,
    "replay": 60.0,
    "reload": 30.0,
    "show-config": 5.0,
    "status": 10.0,
}
"""Longest time from a command's arrival to its end, its turn included."""


class Commands:
    """Takes commands of one box from the link, and publishes a reply to each."""

    def __init__(self, box: Hands, clock: Clock, verbs: Verbs) -> None:
        self._box = box
        self._id = box.config.box.id
        self._clock = clock
        self._verbs = verbs
        self._turns: WeakValueDictionary[str, asyncio.Lock] = WeakValueDictionary()
        self._answered: OrderedDict[str, str] = OrderedDict()
        self._answered_bytes = 0
        self._ignored = Fault(log, "command_ignored", forget_s=3600.0)
        self._at_work: dict[str, asyncio.Task[None]] = {}

    async def put(self, identity: str, payload: bytes) -> None:
        """Take a command; its reply is published when it is done.

        An id that was answered gets the same answer again, one at work is left at it: a broker may say
        everything twice.
        """
        if not topics.COMMAND_ID.fullmatch(identity):
            self._ignored.failed(why="expected an id of a-z, 0-9 and -", got=identity[:80])
        elif identity in self._answered:
            await self._publish(identity, self._answered[identity])
        elif identity not in self._at_work:
            if len(self._at_work) >= WAITING_MAX:
                # Not remembered: it may come again with this id when there is room.
                failure = Failure(reason="busy", detail=f"{WAITING_MAX} commands are at work or waiting")
                await self._publish(identity, _text(Reply(ok=False, error=failure)))
                return
            self._at_work[identity] = asyncio.create_task(self._work(identity, payload), name="command")

    async def run(self) -> None:
        """Own the commands at work: they end with this."""
        try:
            await asyncio.Event().wait()
        finally:
            for task in self._at_work.values():
                task.cancel()
            await asyncio.gather(*self._at_work.values(), return_exceptions=True)
            await self._verbs.end()

    async def _work(self, identity: str, payload: bytes) -> None:
        try:
            text = _text(await self._reply(identity, payload))
            self._remember(identity, text)
            await self._publish(identity, text)
        finally:
            del self._at_work[identity]

    async def _reply(self, identity: str, payload: bytes) -> Reply:
        if (why := closed(self._box.config)) is not None:  # which is told once, not for each
            return Reply(ok=False, error=Failure(reason="not_allowed", detail=why))
        verb: str | None = None
        try:
            command = command_of(payload)
            verb = command.verb
            if verb not in self._box.config.remote.commands:
                allowed = ", ".join(self._box.config.remote.commands) or "none"
                raise RemoteError("not_allowed", f"this box allows {allowed}; got {verb}")
            result = await self._in_turn(command)
        except RemoteError as error:
            failure = Failure(reason=error.reason, detail=error.detail)
        except TimeoutError:
            failure = Failure(reason="timeout", detail=f"{verb} did not end in time")
        except TrisenseError as error:
            failure = Failure(reason="failed", detail=str(error))
        except Exception as error:  # the edge: a bug behind one command must not take the box down
            log.exception("command_broken", verb=verb, id=identity)
            failure = Failure(reason="failed", detail=repr(error))
        else:
            log.info("command_done", verb=verb, id=identity)
            return Reply(ok=True, result=result)
        log.warning(
            "command_not_done", verb=verb, id=identity, reason=failure.reason, why=failure.detail[:500]
        )
        return Reply(ok=False, error=failure)

    async def _in_turn(self, command: Command) -> dict[str, JsonValue]:
        """Do a command when those before it for the same device are done.

        Raises:
            TimeoutError: it was not done in time.
            RemoteError: its deadline had passed; or as ``Verbs.do``.
        """
        arguments = command.arguments
        key = f"device {arguments.device}" if isinstance(arguments, OneDevice) else command.verb
        turn = self._turns.setdefault(key, asyncio.Lock())
        async with asyncio.timeout(min(LIMIT_S[command.verb], self._left_s(command))), turn:
            return await self._verbs.do(command)

    def _left_s(self, command: Command) -> float:
        """Seconds to the deadline, where the clock can tell; without it the arrival is what counts: no
        broker keeps a command for a box that is not there.

        Raises:
            RemoteError: ``expired``.
        """
        if not self._clock.state().synced:
            return math.inf
        left_s = command.deadline.timestamp() - self._clock.now_ns() / 1e9
        if left_s <= 0:
            raise RemoteError(
                "expired", f"expected before {command.deadline.isoformat()}, came {-left_s:.1f} s late"
            )
        return left_s

    def _remember(self, identity: str, text: str) -> None:
        self._answered[identity] = text
        self._answered_bytes += len(text)
        while len(self._answered) > ANSWERED_MAX or self._answered_bytes > ANSWERED_BYTES:
            _, old = self._answered.popitem(last=False)
            self._answered_bytes -= len(old)

    async def _publish(self, identity: str, text: str) -> None:
        try:
            await self._box.uplink.publish(topics.reply(self._id, identity), text)
        except LinkError as error:
            # It is remembered: whoever asks again with this id gets it.
            log.info("reply_not_sent", id=identity, why=str(error))


def _text(reply: Reply) -> str:
    text = reply.model_dump_json()
    if len(text.encode()) <= REPLY_BYTES:
        return text
    failure = Failure(reason="too_large", detail=f"done, but the answer exceeds {REPLY_BYTES} bytes")
    return Reply(ok=False, error=failure).model_dump_json()
