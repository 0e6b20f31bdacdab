"""A fixed UHF reader with an LLRP server, written from the protocol sheet (section 1.9)."""

from __future__ import annotations

import asyncio
import contextlib
import struct
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Final

from trisense.sims.base import End, Hangup, Simulator, Told, together
from trisense.sims.llrp_bytes import (
    Malformed,
    Request,
    capabilities,
    children,
    gen2_crc,
    message,
    status,
    tag_number,
    tlv,
    tv,
)

__all__ = ["LlrpReader"]

ROUND_S: Final = 0.05
IN_SIGHT_S: Final = 8.0
PARKED_S: Final = 1200.0
PARKED_SHARE: Final = 0.01
MISSED_ACKS: Final = 3
POWERS_DBM: Final = tuple(10 + step * 0.25 for step in range(91))
HOPS_KHZ: Final = tuple(range(902_750, 927_750, 500))

NO_CHECK_AT: Final = 0
"""Messages have no check but the tag's own CRC; a flipped bit of the header is noticed, too."""

ERROR_FIELD, ERROR_UNSUPPORTED, ERROR_PARAMETER = 101, 109, 100
DISABLED, INACTIVE, ACTIVE = 0, 1, 2
EVENT_ROSPEC, EVENT_ANTENNA = 2, 8


@dataclass(slots=True)
class RoSpec:
    """What the one ROSpec of this reader was told to do."""

    id: int
    start_trigger: int
    stop_s: float | None
    antennas: tuple[int, ...]
    report_at: int | None
    """Tags per report; None where reports come only at the end."""
    selector: int
    memory: int
    """C1G2EPCMemorySelector: 0x80 CRC, 0x40 PC."""
    state: int = DISABLED
    ends_s: float | None = None


@dataclass(slots=True)
class Seen:
    """Reads of one tag at one antenna since the last report."""

    epc: bytes
    antenna: int
    rssi: int
    channel: int
    first_us: int
    last_us: int
    count: int = 1


@dataclass(slots=True)
class Client:
    """The connection that owns the reader."""

    end: End
    unanswered: int = 0
    """KEEPALIVEs since it last said anything."""
    acked: asyncio.Event = field(default_factory=asyncio.Event)
    """Set at each KEEPALIVE_ACK."""
    lock: asyncio.Lock = field(default_factory=asyncio.Lock)
    """Held while a message is on its way: the parts of two never mix."""
    ordered: bool = False
    """It has added the ROSpec. Until then one of the client before goes on reporting, and nobody asked for
    that: what it says is told to nobody."""
    sent: dict[int, bytes] = field(default_factory=dict)
    """Last value of each parameter that may be left out while it stays the same (sheet 1.6)."""

    async def write(self, data: bytes) -> None:
        async with self.lock:
            await self.end.write(data)

    async def write_in_two(self, data: bytes, cut: int) -> None:
        async with self.lock:
            await self.end.write(data[:cut])
            await asyncio.sleep(0)
            await self.end.write(data[cut:])

    async def tell(self, data: bytes, *told: Told, check: int) -> None:
        async with self.lock:
            await self.end.send(data, *(told if self.ordered else ()), check=check)


class LlrpReader(Simulator):
    """Four antennas, one ROSpec, one client at a time; tags pass with the traffic."""

    kind = "llrp"

    def __init__(
        self,
        *,
        tags_per_hour: float = 400.0,
        read_every_s: float = 0.9,
        antennas: int = 4,
        utc_clock: bool = True,
        kept_reports: bool = False,
        antenna_faults_per_hour: float = 0.5,
        **base: Any,
    ) -> None:
        super().__init__(**base)
        self.tags_per_hour = tags_per_hour
        self.read_every_s = read_every_s
        """A tag stays silent about as long after it was read (session 1)."""
        self.antennas = antennas
        self.utc_clock = utc_clock
        self.kept_reports = kept_reports
        """Reports of an earlier session are sent at the next connection, as buffering readers do."""
        self.antenna_faults_per_hour = antenna_faults_per_hour
        self._client: Client | None = None
        self._next_id = 1
        self._rospec: RoSpec | None = None
        self._events: dict[int, bool] = {}
        self._keepalive_s = 0.0
        self._seen: dict[tuple[bytes, int], Seen] = {}
        self._due_ns: dict[bytes, int] = {}
        # A fault takes along what its frame said, so only a faultless reader may leave things out.
        self._thrifty = not (self.faults.chances or self.faults.schedule)
        self._lost_antenna = False

    async def talk(self, end: End) -> None:
        if self._client is not None:
            await end.write(self._event(tlv(256, struct.pack(">H", 2))))
            with contextlib.suppress(Hangup):
                await self._client.write(self._event(tlv(256, struct.pack(">H", 4))))
            return
        client = self._client = Client(end)
        try:
            await end.write(self._event(tlv(256, struct.pack(">H", 0))))
            if self.kept_reports:
                await end.write(b"".join(self._report([seen], Client(end)) for seen in self._kept()))
            await together(self._listen(client), self._inventory(client), self._keep_alive(client))
        finally:
            self._client = None
            self._keepalive_s = 0.0

    # --- what the client says -----------------------------------------------------------------

    async def _listen(self, client: Client) -> None:
        heard = bytearray()
        while True:
            heard += await client.end.read()
            try:
                while request := Request.take(heard):
                    client.unanswered = 0
                    if request.type == 72:
                        client.acked.set()
                        continue
                    await self._answer(client, request)
                    if request.type == 14:
                        return
            except Malformed as error:
                await client.write(message(100, 0, status(ERROR_PARAMETER, str(error))))
                return

    async def _answer(self, client: Client, request: Request) -> None:
        handlers: Mapping[int, tuple[int, Callable[[bytes], bytes]]] = {
            1: (11, self._capabilities),
            2: (12, self._config),
            3: (13, self._set_config),
            14: (4, lambda _: status()),
            20: (30, self._add),
            21: (31, self._delete),
            22: (32, self._start),
            23: (33, self._stop),
            24: (34, self._enable),
            25: (35, self._disable),
            26: (36, lambda _: status()),
        }
        if request.type == 60:
            await self._send_reports(client)
        elif request.type == 64:
            pass  # nothing is ever held back
        elif request.type not in handlers:
            await client.write(message(100, request.id, status(ERROR_UNSUPPORTED)))
        else:
            type_, handler = handlers[request.type]
            before = self._rospec.state if self._rospec else DISABLED
            try:
                body = handler(request.body)
            except (struct.error, IndexError, KeyError, ValueError) as error:
                raise Malformed(f"message {request.type}: {error}") from error
            answer = message(type_, request.id, body)
            after = self._rospec.state if self._rospec else DISABLED
            if ACTIVE in (before, after) and before != after:
                answer += self._rospec_event(started=after == ACTIVE)
            # A segment boundary falls where it likes: inside a message, or behind two of them.
            await client.write_in_two(answer, self.random.randrange(len(answer)))

    def _capabilities(self, body: bytes) -> bytes:
        struct.unpack(">B", body)
        return status() + capabilities(self.antennas, POWERS_DBM, HOPS_KHZ)

    def _config(self, body: bytes) -> bytes:
        struct.unpack(">HBHH", body)
        keepalive = struct.pack(">BI", bool(self._keepalive_s), round(self._keepalive_s * 1000))
        properties = (
            tlv(221, struct.pack(">BHh", 0x80, antenna, 0)) for antenna in range(1, self.antennas + 1)
        )
        return (
            status()
            + tlv(218, struct.pack(">BH", 0, 8) + b"\0" * 8)
            + b"".join(properties)
            + tlv(220, keepalive)
        )

    def _set_config(self, body: bytes) -> bytes:
        if body[0] & 0x80:
            self._events, self._keepalive_s, self._rospec = {}, 0.0, None
        for type_, content in children(body[1:]):
            if type_ == 244:
                for inner, state in children(content):
                    if inner == 245:
                        number, on = struct.unpack(">HB", state)
                        self._events[number] = bool(on & 0x80)
            elif type_ == 220:
                kind, period_ms = struct.unpack(">BI", content)
                self._keepalive_s = period_ms / 1000 if kind == 1 else 0.0
        return status()

    def _add(self, body: bytes) -> bytes:
        (_, content), *others = children(body)
        id_, _, state = struct.unpack_from(">IBB", content)
        if others or id_ == 0 or state != DISABLED:
            return status(ERROR_FIELD, "a new ROSpec has an id and is disabled", 2)
        if self._rospec is not None:
            return status(ERROR_FIELD, f"ROSpec {self._rospec.id} exists, and there is room for one", 0)
        rospec = _read_rospec(id_, dict(children(content[6:])))
        if any(antenna > self.antennas for antenna in rospec.antennas):
            return status(ERROR_FIELD, f"there are {self.antennas} antennas", 0)
        self._rospec = rospec
        if self._client is not None:
            self._client.ordered = True
        return status()

    def _addressed(self, body: bytes, *, all_allowed: bool = True) -> bool:
        """Whether there is a ROSpec that the id in ``body`` means; 0 means all, be there none."""
        (id_,) = struct.unpack(">I", body)
        if id_ == 0:
            return all_allowed
        return self._rospec is not None and self._rospec.id == id_

    def _delete(self, body: bytes) -> bytes:
        if not self._addressed(body):
            return status(ERROR_FIELD, "no such ROSpec", 0)
        self._rospec = None
        return status()

    def _enable(self, body: bytes) -> bytes:
        if not self._addressed(body):
            return status(ERROR_FIELD, "no such ROSpec", 0)
        if self._rospec and self._rospec.state == DISABLED:
            self._rospec.state = INACTIVE
            if self._rospec.start_trigger == 1:
                self._activate(self._rospec)
        return status()

    def _disable(self, body: bytes) -> bytes:
        if not self._addressed(body):
            return status(ERROR_FIELD, "no such ROSpec", 0)
        if self._rospec:
            self._rospec.state = DISABLED
        return status()

    def _start(self, body: bytes) -> bytes:
        if not self._addressed(body, all_allowed=False) or self._rospec is None:
            return status(ERROR_FIELD, "no such ROSpec", 0)
        if self._rospec.state != INACTIVE:
            return status(ERROR_FIELD, "the ROSpec is not inactive", 0)
        self._activate(self._rospec)
        return status()

    def _stop(self, body: bytes) -> bytes:
        if not self._addressed(body, all_allowed=False) or self._rospec is None:
            return status(ERROR_FIELD, "no such ROSpec", 0)
        if self._rospec.state != ACTIVE:
            return status(ERROR_FIELD, "the ROSpec is not active", 0)
        self._rospec.state = INACTIVE
        return status()

    def _activate(self, rospec: RoSpec) -> None:
        rospec.state = ACTIVE
        rospec.ends_s = None if rospec.stop_s is None else time.monotonic() + rospec.stop_s
        self._seen.clear()
        self._due_ns.clear()

    # --- what the reader says by itself -------------------------------------------------------

    async def _keep_alive(self, client: Client) -> None:
        while True:
            await asyncio.sleep(self._keepalive_s or ROUND_S)
            if self._keepalive_s:
                if client.unanswered == MISSED_ACKS:
                    await client.write(self._event(tlv(257)))
                    return
                client.unanswered += 1
                await client.write(message(62, self._take_id()))

    async def _inventory(self, client: Client) -> None:
        while True:
            await asyncio.sleep(ROUND_S)
            await self._watch_antenna(client)
            rospec = self._rospec
            if rospec is None or rospec.state != ACTIVE:
                continue
            self._read_tags(rospec)
            if rospec.report_at is not None and len(self._seen) >= rospec.report_at:
                await self._send_reports(client)
            if rospec.ends_s is not None and time.monotonic() >= rospec.ends_s:
                rospec.state = INACTIVE
                await self._send_reports(client)
                if event := self._rospec_event(started=False):
                    await client.write(event)

    async def _watch_antenna(self, client: Client) -> None:
        faults = self.world.passing(
            f"{self.name}/antenna",
            time.time_ns(),
            per_hour=lambda _: self.antenna_faults_per_hour,
            lasts_s=30,
        )
        lost = any(True for _ in faults)
        if lost != self._lost_antenna and self._events.get(EVENT_ANTENNA):
            self._lost_antenna = lost
            event = self._event(tlv(255, struct.pack(">BH", not lost, self.antennas)))
            told = {"event": "antenna_lost" if lost else "antenna_connected", "antenna": self.antennas}
            await client.tell(event, Told("reader_event", told), check=NO_CHECK_AT)

    def _read_tags(self, rospec: RoSpec) -> None:
        now_ns = time.time_ns()
        passing = self.world.passing(
            f"{self.name}/tag",
            now_ns,
            per_hour=lambda t: self.tags_per_hour * self.world.traffic(t),
            lasts_s=IN_SIGHT_S,
        )
        parked = self.world.passing(
            f"{self.name}/parked",
            now_ns,
            per_hour=lambda t: PARKED_SHARE * self.tags_per_hour * self.world.traffic(t),
            lasts_s=PARKED_S,
        )
        in_field = set()
        for tag in (*passing, *parked):
            epc = tag_number(tag.random)
            in_field.add(epc)
            if now_ns >= self._due_ns.get(epc, 0):
                self._due_ns[epc] = now_ns + round(self.read_every_s * 1e9 * self.random.uniform(0.6, 1.5))
                # Past the first antenna, then past the second: strongest in the middle of each.
                place = tag.progress * 2 % 1
                rssi = -44 - 30 * abs(place - 0.5) + self.random.gauss(0, 1.5)
                antenna = rospec.antennas[int(tag.progress * 2) % len(rospec.antennas)]
                self._see(epc, antenna, round(rssi), now_ns // 1000)
        self._due_ns = {epc: due for epc, due in self._due_ns.items() if epc in in_field}

    def _see(self, epc: bytes, antenna: int, rssi: int, now_us: int) -> None:
        seen = self._seen.get((epc, antenna))
        if seen is None:
            channel = now_us // 400_000 % len(HOPS_KHZ) + 1
            self._seen[epc, antenna] = Seen(epc, antenna, rssi, channel, now_us, now_us)
        else:
            seen.rssi, seen.last_us, seen.count = max(seen.rssi, rssi), now_us, min(seen.count + 1, 65_535)

    async def _send_reports(self, client: Client) -> None:
        rospec = self._rospec
        waiting = list(self._seen.values())
        self._seen.clear()
        if rospec is None or not waiting:
            return
        size = rospec.report_at or len(waiting)
        for start in range(0, len(waiting), size):
            tags = waiting[start : start + size]
            told = [Told("tag_sighting", self._told(tag, rospec.selector)) for tag in tags]
            check = -1 if rospec.memory & 0x80 else NO_CHECK_AT
            await client.tell(self._report(tags, client), *told, check=check)

    def _told(self, seen: Seen, selector: int) -> dict[str, Any]:
        """What a report says, under the names and in the units of the rows."""
        values: dict[str, Any] = {"epc": seen.epc.hex()}
        if selector & 0x1000:
            values["antenna"] = seen.antenna
        if selector & 0x0800:
            values["channel"] = seen.channel
        if selector & 0x0400:
            values["rssi"] = seen.rssi
        if selector & 0x0200 and self.utc_clock:
            values["first_seen"] = seen.first_us
        if selector & 0x0100 and self.utc_clock:
            values["last_seen"] = seen.last_us
        if selector & 0x0080:
            values["seen_count"] = seen.count
        return values

    def _kept(self) -> list[Seen]:
        old_us = time.time_ns() // 1000 - 60_000_000
        return [Seen(tag_number(self.random), 1, -60, 1, old_us, old_us) for _ in range(3)]

    def _report(self, tags: list[Seen], client: Client) -> bytes:
        return message(61, self._take_id(), b"".join(self._tag(tag, client) for tag in tags))

    def _tag(self, seen: Seen, client: Client) -> bytes:
        rospec = self._rospec
        selector, memory = (rospec.selector, rospec.memory) if rospec else (0x1F80, 0)
        number = tlv(241, struct.pack(">H", len(seen.epc) * 8) + seen.epc)
        data = tv(13, seen.epc) if len(seen.epc) == 12 else number
        # Selector bit, parameter, value, and whether it may be left out while it stays the same.
        parts = (
            (0x8000, 9, struct.pack(">I", rospec.id if rospec else 1), True),
            (0x4000, 14, struct.pack(">H", 1), True),
            (0x2000, 10, struct.pack(">H", 1), True),
            (0x1000, 1, struct.pack(">H", seen.antenna), True),
            (0x0400, 6, struct.pack(">b", seen.rssi), False),
            (0x0800, 7, struct.pack(">H", seen.channel), True),
            (0x0200, 2 if self.utc_clock else 3, struct.pack(">Q", seen.first_us), False),
            (0x0100, 4 if self.utc_clock else 5, struct.pack(">Q", seen.last_us), False),
            (0x0080, 8, struct.pack(">H", seen.count), False),
            (0x0040, 16, struct.pack(">I", 0), True),
        )
        for bit, type_, value, stable in parts:
            if selector & bit and not (stable and self._thrifty and client.sent.get(type_) == value):
                data += tv(type_, value)
                client.sent[type_] = value
        pc = struct.pack(">H", len(seen.epc) // 2 << 11)
        if memory & 0x40:
            data += tv(12, pc)
        if memory & 0x80:
            # Last, so that the fault ``checksum`` hits what can show it.
            data += tv(11, struct.pack(">H", gen2_crc(pc + seen.epc)))
        return tlv(240, data)

    def _rospec_event(self, *, started: bool) -> bytes:
        if not self._events.get(EVENT_ROSPEC):
            return b""
        id_ = self._rospec.id if self._rospec else 0
        return self._event(tlv(249, struct.pack(">BII", not started, id_, 0)))

    def _event(self, event: bytes) -> bytes:
        stamp = tlv(128, struct.pack(">Q", time.time_ns() // 1000))
        return message(63, self._take_id(), tlv(246, stamp + event))

    def _take_id(self) -> int:
        self._next_id = self._next_id % 0xFFFFFFFF + 1
        return self._next_id


def _read_rospec(id_: int, params: Mapping[int, bytes]) -> RoSpec:
    """What an ADD_ROSPEC asks for; missing parameters are a KeyError, short ones a struct.error."""
    boundary = dict(children(params[178]))
    (start_trigger,) = struct.unpack_from(">B", boundary[179])
    stop_trigger, stop_ms = struct.unpack_from(">BI", boundary[182])
    aispec = params[183]
    (count,) = struct.unpack_from(">H", aispec)
    antennas = struct.unpack_from(f">{count}H", aispec, 2)
    inside = dict(children(aispec[2 + 2 * count :]))
    struct.unpack_from(">BI", inside[184])
    _, protocol = struct.unpack_from(">HB", inside[186])
    if protocol != 1:
        raise Malformed(f"air protocol {protocol}")
    trigger = report_n = selector = memory = 0
    if 237 in params:
        trigger, report_n = struct.unpack_from(">BH", params[237])
        content = dict(children(params[237][3:]))[238]
        (selector,) = struct.unpack_from(">H", content)
        memory = dict(children(content[2:])).get(348, b"\0")[0]
    return RoSpec(
        id_,
        start_trigger,
        stop_ms / 1000 if stop_trigger == 1 else None,
        (1, 2) if antennas == (0,) else antennas,
        report_n if trigger and report_n else None,
        selector,
        memory,
    )
