"""A TI mmWave radar, written from the protocol sheet: data port and command port, ten frames a second."""

from __future__ import annotations

import asyncio
import math
import struct
from typing import Any, Final

from trisense.core.model import Value
from trisense.sims.base import End, Simulator, Told, together
from trisense.sims.world import Vehicle

__all__ = ["TiMmwave", "TiMmwaveCli"]

MAGIC: Final = bytes.fromhex("0201040306050807")
PERIOD_S: Final = 0.1
CYCLES: Final = 20_000_000
"""Of a 200 MHz counter in a frame's time."""
PLATFORM: Final = 0x0A6843
RANGE_M: Final = 60.0
LANE_X_M: Final = (-3.0, 3.5)
FIRST_BYTE: Final = 0
"""Frames have no checksum: their magic is what a flipped bit is noticed by."""


class TiMmwave(Simulator):
    """Data port of a TI IWR6843 at 921600 8N1; ``firmware`` is out-of-box or traffic.

    ``empty`` is how it says that it sees nothing: ``tlv`` (TLV 1 of length 0) or ``header``. ``restart_at``
    begins again at frame 1 once, as after a brown-out; ``icrnl`` spoils CR as a line that is not raw does;
    ``drop`` loses a byte within every so many-th frame.
    """

    kind = "timmwave"
    baud = 921_600

    def __init__(
        self,
        *,
        firmware: str = "out-of-box",
        period_s: float = PERIOD_S,
        empty: str = "tlv",
        restart_at: int = 0,
        icrnl: bool = False,
        drop: int = 0,
        **base: Any,
    ) -> None:
        super().__init__(**base)
        if firmware not in ("out-of-box", "traffic") or empty not in ("tlv", "header"):
            raise ValueError("firmware: out-of-box or traffic; empty: tlv or header")
        self.firmware = firmware
        self.period_s = period_s
        self.empty = empty
        self.restart_at = restart_at
        self.icrnl = icrnl
        self.drop = drop
        self.running = True
        self.frame_number = 0
        self._cycles = 0
        self._sent = 0

    async def talk(self, end: End) -> None:
        await together(self._tell(end), _hear(end))

    async def _tell(self, end: End) -> None:
        while True:
            if self.running:
                await self._frame(end)
            await asyncio.sleep(self.period_s)

    async def _frame(self, end: End) -> None:
        self._sent += 1
        self.frame_number += 1
        if self._sent == self.restart_at:
            self.frame_number = 1
        self._cycles = (self._cycles + CYCLES) % 2**32
        near = [v for v in self.world.vehicles(self.now_ns()) if 1 < v.x_m + RANGE_M < RANGE_M]
        frame, rows = self._traffic(near) if self.firmware == "traffic" else self._out_of_box(near)
        if self.icrnl:
            frame = frame.replace(b"\r", b"\n")
        if self.drop and self._sent % self.drop == 0:
            at = self.random.randrange(len(frame) - 40)  # padding that is lost would tell nothing
            await end.write(frame[:at] + frame[at + 1 :])
            return
        await end.send(frame, *rows, check=FIRST_BYTE)

    def _counts(self, **counts: int) -> Told:
        return Told("radar_presence", {**counts, "frame_number": self.frame_number})

    def _out_of_box(self, vehicles: list[Vehicle]) -> tuple[bytes, list[Told]]:
        points, sides, rows = b"", b"", []
        for vehicle in vehicles:
            point, snr = (
                struct.pack("<4f", *_position(vehicle), _receding(vehicle)),
                150 + vehicle.number % 80,
            )
            x, y, z, speed = struct.unpack("<4f", point)
            told: dict[str, Value] = {"x": x, "y": y, "z": z, "radial_speed": 0.0 - speed}
            rows.append(Told("radar_point", {**told, "signal_to_noise": snr / 10, "noise_level": 60.0}))
            points += point
            sides += struct.pack("<hh", snr, 600)
        statistics = _tlv(6, struct.pack("<6I", 4100, 8600, 75_900, 0, 0, 4))
        tlvs = [_tlv(1, points), _tlv(7, sides), statistics]
        if not vehicles:
            tlvs = [_tlv(1, b""), statistics] if self.empty == "tlv" else []
        body = b"".join(tlvs)
        size = _padded(40 + len(body))
        words = (0x03060000, size, PLATFORM, self.frame_number, self._cycles, len(vehicles), len(tlvs), 0)
        frame = MAGIC + struct.pack("<8I", *words) + body
        return self._filled(frame, size), [self._counts(point_count=len(vehicles)), *rows]

    def _traffic(self, vehicles: list[Vehicle]) -> tuple[bytes, list[Told]]:
        points, targets, rows = b"", b"", []
        for vehicle in vehicles:
            x, y, _ = _position(vehicle)
            points += struct.pack("<4f", math.hypot(x, y), math.atan2(x, y), 0.0, _receding(vehicle))
            motion = (x, y, 0.0, 0.0, vehicle.speed_mps, 0.0, 0.0, 0.0, 0.0)
            target = struct.pack("<I9f16f2f", vehicle.number % 250, *motion, *(0.0,) * 16, 3.0, 0.9)
            track, x, y, z, vx, vy, vz, *_ = struct.unpack("<I27f", target)
            told: dict[str, Value] = {"track": track, "x": x, "y": y, "z": z}
            rows.append(Told("radar_track", {**told, "velocity_x": vx, "velocity_y": vy, "velocity_z": vz}))
            targets += target
        index = bytes(vehicle.number % 250 for vehicle in vehicles)
        tlvs = [_tlv(6, points), _tlv(7, targets), _tlv(8, index)] if vehicles else []
        body = b"".join(tlvs)
        size = _padded(52 + len(body))
        words = (0x03050004, PLATFORM, self._cycles, size, self.frame_number, 0, 100, 200, 300, 400)
        header = MAGIC + struct.pack("<10IH", *words, len(tlvs))
        header += struct.pack("<H", _checksum(header))
        counts = {"point_count": len(vehicles)} | ({"target_count": len(vehicles)} if vehicles else {})
        return self._filled(header + body, size), [self._counts(**counts), *rows]

    def _filled(self, frame: bytes, size: int) -> bytes:
        """Padding holds whatever the buffer held before."""
        return frame + self.random.randbytes(size - len(frame))


class TiMmwaveCli(Simulator):
    """Command port of the same radar at 115200 8N1; ``refuses`` is a command it has no use for."""

    kind = "timmwave-cli"
    baud = 115_200

    def __init__(self, *, refuses: str = "", start_s: float = 1.2, **base: Any) -> None:
        super().__init__(**base)
        self.refuses = refuses
        self.start_s = start_s
        self.started = False
        self.commands: list[str] = []

    async def talk(self, end: End) -> None:
        heard = b""
        while True:
            heard = (heard + await end.read())[-4096:]
            while b"\n" in heard:
                line, _, heard = heard.partition(b"\n")
                await self._obey(end, line.decode("ascii", "replace").strip())

    async def _obey(self, end: End, command: str) -> None:
        self.commands.append(command)
        name = command.partition(" ")[0]
        answer = "Done"
        if name == self.refuses:
            answer = "Error -1"
        elif name == "sensorStart":
            if self.started:
                answer = "Ignored: Sensor is already started\r\nDone"
            else:
                await end.send(f"{command}\r\nDebug: Init Calibration Status = 0x7fe\r\n".encode())
                await asyncio.sleep(self.start_s)
                command = ""
            self.started = True
        elif name == "sensorStop":
            self.started = False
        echo = f"{command}\r\n" if command else ""
        await end.send(f"{echo}{answer}\r\n\nmmwDemo:/>".encode())


async def _hear(end: End) -> None:
    """The data port hears nobody."""
    while True:
        await end.read()


def _tlv(kind: int, value: bytes) -> bytes:
    return struct.pack("<II", kind, len(value)) + value


def _padded(size: int) -> int:
    return -(-size // 32) * 32


def _checksum(header: bytes) -> int:
    total: int = sum(struct.unpack(f"<{len(header) // 2}H", header))
    return ~((total & 0xFFFF) + (total >> 16)) & 0xFFFF


def _position(vehicle: Vehicle) -> tuple[float, float, float]:
    """Where the radar, which looks along the road from its far end, sees it."""
    return LANE_X_M[vehicle.lane], vehicle.x_m + RANGE_M, 0.5


def _receding(vehicle: Vehicle) -> float:
    x, y, _ = _position(vehicle)
    return vehicle.speed_mps * y / math.hypot(x, y)
