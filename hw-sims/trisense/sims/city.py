"""A city in a box: street crossings and a roof, each with a field box's worth of simulated devices.

Every device speaks its real protocol on a real pty or TCP socket. The city writes the configuration of
each box beside its devices and the log of what they told; it knows nothing of who reads them.
"""

from __future__ import annotations

import asyncio
import json
import signal
from collections.abc import Mapping, Sequence
from contextlib import AsyncExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, TypeAlias

from trisense.sims.base import Faults, Simulator, Truth, World, listening, plugged
from trisense.sims.beast import BeastFeed
from trisense.sims.camera import SnapshotCamera
from trisense.sims.ld2450 import Ld2450
from trisense.sims.llrp import LlrpReader
from trisense.sims.modbus import SenseCap, Ws90
from trisense.sims.plantower import Plantower
from trisense.sims.scenes import NdviScenes

__all__ = ["CITY", "Place", "places", "run"]

Table: TypeAlias = dict[str, Any]

CITY: Final = "city.json"
"""Written last: once it is there, every device is. Lists boxes with their configuration and truth."""
OPENING_S: Final = 0.5
"""What a box on a busy machine needs to open a port."""
DEAD: Final[Table] = {
    "name": "device-dead",
    "kind": "device",
    "device": "*",
    "for_s": 10.0,
    "priority": "high",
}
CROWD: Final[Table] = {
    "name": "crowd",
    "kind": "threshold",
    "device": "walkers",
    "field": "target_count",
    "unit": "{target}",
    "above": 2.0,
    "for_s": 1.0,
    "clear_for_s": 5.0,
    "priority": "low",
    "message": "as many walkers as the radar can tell apart",
}
CENTRE: Final = (48.1374, 11.5755)
CROSSINGS: Final = (
    ("marienplatz", 0.0000, 0.0000),
    ("karlsplatz", 0.0018, -0.0098),
    ("odeonsplatz", 0.0050, 0.0021),
    ("isartor", -0.0024, 0.0066),
    ("sendlinger-tor", -0.0035, -0.0087),
    ("maxvorstadt", 0.0125, -0.0065),
    ("lehel", 0.0020, 0.0125),
    ("haidhausen", -0.0040, 0.0250),
)


@dataclass(frozen=True, slots=True)
class Place:
    """Where a box stands and what kind of place it is."""

    box: str
    site: str
    latitude: float
    longitude: float
    roof: bool


def places(count: int) -> list[Place]:
    """``count`` boxes, the last one on a roof (aircraft, scenes, weather); at most nine.

    Raises:
        ValueError: fewer than one, or more places than the city has.
    """
    if not 1 <= count <= len(CROSSINGS) + 1:
        raise ValueError(f"from 1 to {len(CROSSINGS) + 1} boxes, not {count}")
    found = [
        Place(f"kx-{number:03}", site, CENTRE[0] + north, CENTRE[1] + east, roof=False)
        for number, (site, north, east) in enumerate(CROSSINGS[: count - 1], start=1)
    ]
    return [*found, Place("roof-001", "town-hall", CENTRE[0] - 0.0012, CENTRE[1] - 0.0036, roof=True)]


class Devices:
    """The devices of one box: starts their simulators, collects their tables for the configuration."""

    def __init__(
        self, place: Place, *, folder: Path, stack: AsyncExitStack, truth: Truth, faults: str, seed: int
    ) -> None:
        self.tables: list[Table] = []
        self._place = place
        self._folder = folder
        self._stack = stack
        self._faults = faults
        self._base: Table = {
            "world": World(seed, place.latitude, place.longitude),
            "truth": truth,
            "seed": seed,
        }

    def options(self, name: str) -> Table:
        """What every simulator's constructor takes."""
        seed = f"{self._place.box}/{name}"
        faults = Faults.parse(self._faults, seed=int.from_bytes(seed.encode()) % 2**32)
        return {**self._base, "faults": faults, "name": name}

    async def uart(self, sim: Simulator, table: Mapping[str, Any]) -> None:
        """Plug a device in at a pty of its own."""
        sim.opening_s = OPENING_S
        link = await self._stack.enter_async_context(plugged(sim, self._folder / f"tty-{sim.name}"))
        self._add(sim.name, {**table, "line": f"serial://{link}?baud={sim.baud}"})

    async def tcp(self, sim: Simulator, table: Mapping[str, Any]) -> None:
        """Let a device listen on a free loopback port."""
        port = await self._stack.enter_async_context(listening(sim))
        self._add(sim.name, {**table, "line": f"tcp://127.0.0.1:{port}"})

    async def camera(self, sim: SnapshotCamera, table: Mapping[str, Any]) -> None:
        port = await self._stack.enter_async_context(listening(sim))
        self._add(sim.name, {**table, "url": f"http://127.0.0.1:{port}/snapshot.jpg"})

    async def scenes(self, sim: NdviScenes, table: Mapping[str, Any]) -> None:
        folder = self._folder / "scenes"
        folder.mkdir(exist_ok=True)
        await self._stack.enter_async_context(sim.writing(folder))
        self._add(sim.name, {**table, "folder": str(folder)})

    def _add(self, name: str, table: Mapping[str, Any]) -> None:
        self.tables.append({"name": name, **table})


async def equip_crossing(devices: Devices) -> None:
    """Weather and dust, a tag reader at the gate, a radar on the wall, a camera over the road."""
    await devices.uart(
        Ws90(**devices.options("weather")), {"driver": "modbus:ecowitt-ws90", "framing": "rtu"}
    )
    await devices.uart(Plantower(**devices.options("dust")), {"driver": "plantower"})
    await devices.tcp(LlrpReader(**devices.options("gate")), {"driver": "llrp"})
    await devices.uart(Ld2450(**devices.options("walkers")), {"driver": "ld2450"})
    await devices.camera(
        SnapshotCamera(**devices.options("camera")),
        {"driver": "http-camera", "interval_s": 5.0, "preview_interval_s": 15.0},
    )


async def equip_roof(devices: Devices, place: Place) -> None:
    """Aircraft, satellite scenes, and a weather station of another make."""
    await devices.tcp(
        SenseCap(**devices.options("weather")), {"driver": "modbus:sensecap-one", "framing": "tcp"}
    )
    await devices.tcp(BeastFeed(**devices.options("aircraft")), {"driver": "adsb"})
    sites = [
        {"name": p.site, "latitude": p.latitude, "longitude": p.longitude}
        for p in (*places(len(CROSSINGS) + 1)[:3], place)
    ]
    await devices.scenes(
        NdviScenes(**devices.options("scenes")),
        {"driver": "ndvi-scenes", "interval_s": 5.0, "sites": sites},
    )


async def run(
    folder: Path, *, boxes: int, mqtt_port: int, seed: int = 0, faults: str = "", log_level: str = "info"
) -> None:
    """Run the city in ``folder`` until SIGTERM or SIGINT."""
    stop = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, stop.set)
    listed = []
    async with AsyncExitStack() as stack:
        for place in places(boxes):
            home = folder / place.box
            home.mkdir(parents=True, exist_ok=True)
            truth = stack.enter_context(Truth(home / "truth.jsonl"))
            devices = Devices(place, folder=home, stack=stack, truth=truth, faults=faults, seed=seed)
            if place.roof:
                await equip_roof(devices, place)
            else:
                await equip_crossing(devices)
            tables: Table = {
                "box": {
                    "id": place.box,
                    "site": place.site,
                    "latitude": place.latitude,
                    "longitude": place.longitude,
                },
                "spool": {"path": "spool.db"},
                "mqtt": {"host": "127.0.0.1", "port": mqtt_port},
                "clock": {"hold_s": 0},
                "log": {"level": log_level},
                "device": devices.tables,
                "alarm": [DEAD] if place.roof else [DEAD, CROWD],
            }
            (home / "box.toml").write_text(to_toml(tables), encoding="utf-8")
            listed.append({"box": place.box, "folder": str(home), "devices": len(devices.tables)})
        # Who waits for the file reads it the moment it is there: never half of it.
        whole = folder / f"{CITY}.new"
        whole.write_text(json.dumps(listed), encoding="utf-8")
        whole.rename(folder / CITY)
        await stop.wait()


def to_toml(tables: Mapping[str, Any]) -> str:
    """Write one level of tables and arrays of tables; deeper ones inline."""
    lines: list[str] = []
    for name, table in tables.items():
        for one in table if isinstance(table, list) else [table]:
            lines.append(f"[[{name}]]" if isinstance(table, list) else f"[{name}]")
            lines += [f"{key} = {_inline(value)}" for key, value in one.items()]
            lines.append("")
    return "\n".join(lines)


def _inline(value: object) -> str:
    if isinstance(value, Mapping):
        return "{ " + ", ".join(f"{key} = {_inline(item)}" for key, item in value.items()) + " }"
    if isinstance(value, Sequence) and not isinstance(value, str):
        return "[" + ", ".join(_inline(item) for item in value) + "]"
    # JSON writes strings, numbers and truth values as TOML does.
    return json.dumps(value)
