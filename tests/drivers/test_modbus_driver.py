"""The Modbus driver against simulated stations on real ptys and sockets, and its configuration."""

from __future__ import annotations

import asyncio
import contextlib
import json
import re
import tomllib
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any

import pytest
from pydantic import ValidationError
from trisense.core.errors import ConfigError, DeviceError, DeviceRefused, DeviceTimeout, LineError
from trisense.core.model import Quality
from trisense.drivers import Lines, Observed
from trisense.drivers.modbus import Config, Modbus
from trisense.drivers.modbus import driver as driver_module
from trisense.sims.base import Faults, Truth, World, listening, plugged
from trisense.sims.modbus import ModbusLine, SenseCap, Ws90

FOLDER = Path(driver_module.__file__).parent
BAUD = 115_200
QUICK: dict[str, Any] = {"latency_ms": 0.0, "jitter_ms": 0.0, "baud": BAUD}


class Street:
    """Simulated stations and the drivers that read them."""

    def __init__(self, folder: Path, stack: AsyncExitStack) -> None:
        self.folder = folder
        self.lines = Lines()
        self.stack = stack
        self.truth = folder / "truth.jsonl"
        self._log = stack.enter_context(Truth(self.truth))

    def base(self, name: str, faults: str) -> dict[str, Any]:
        return {
            "world": World(seed=1),
            "truth": self._log,
            "faults": Faults.parse(faults, seed=3),
            "seed": 1,
            "name": name,
        }

    async def pty(self, sim: ModbusLine) -> str:
        link = await self.stack.enter_async_context(plugged(sim, self.folder / f"tty-{sim.name}"))
        return f"serial://{link}?baud={sim.baud}"

    async def tcp(self, sim: ModbusLine) -> str:
        return f"tcp://127.0.0.1:{await self.stack.enter_async_context(listening(sim))}"

    async def driver(self, profile: str, line: str, framing: str, **options: Any) -> Modbus:
        name = options.pop("name", profile)
        options.setdefault("timeout_s", 10.0)
        made = Modbus(
            Config.model_validate(
                {"name": name, "driver": f"modbus:{profile}", "line": line, "framing": framing, **options}
            )
        )
        self.stack.push_async_callback(made.close)
        await made.connect(self.lines)
        return made

    def told(self, device: str) -> list[dict[str, Any]]:
        lines = [json.loads(line) for line in self.truth.read_text().splitlines()]
        return [line for line in lines if line["device"] == device]


@pytest.fixture(autouse=True)
def _opened_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """Do not listen to each line for a whole time-out before the first question."""
    monkeypatch.setattr("trisense.drivers.modbus.bus.LISTEN_MAX_S", 0.0)


@pytest.fixture
async def street(tmp_path: Path) -> AsyncIterator[Street]:
    async with AsyncExitStack() as stack:
        yield Street(tmp_path, stack)


async def one(driver: Modbus) -> Observed:
    (row,) = await driver.read()
    return row


@pytest.mark.parametrize("framing", ["rtu", "ascii"])
async def test_a_station_on_a_pty_is_read_as_it_told(street: Street, framing: str) -> None:
    line = await street.pty(Ws90(**street.base("weather", ""), **QUICK, framing=framing))
    driver = await street.driver("ecowitt-ws90", line, framing)
    row = await one(driver)
    (told,) = street.told("weather")
    assert row.measurement == told["measurement"]
    assert dict(row.values) == told["values"]
    (stream,) = driver.streams()
    assert [field.name for field in stream.fields] == list(row.values)
    assert driver.troubles() == {"answers": 1}


@pytest.mark.parametrize("framing", ["tcp", "rtu", "ascii"])
async def test_a_station_on_a_socket_is_read_as_it_told(street: Street, framing: str) -> None:
    line = await street.tcp(SenseCap(**street.base("weather", ""), **QUICK, framing=framing))
    row = await one(await street.driver("sensecap-one", line, framing))
    told: dict[str, Any] = {}
    for answer in street.told("weather"):
        told |= answer["values"]
    assert dict(row.values) == told
    assert len(told) == 14


@pytest.mark.parametrize("opening", [{"fail_first": True}, {"boot_text": "relay ready\r\n"}])
async def test_what_goes_wrong_right_after_opening_costs_no_reading(
    street: Street, opening: dict[str, Any]
) -> None:
    line = await street.pty(Ws90(**street.base("weather", ""), **QUICK, **opening))
    row = await one(await street.driver("ecowitt-ws90", line, "rtu", timeout_s=1.0))
    assert dict(row.values) == street.told("weather")[-1]["values"]


async def test_two_stations_share_one_line(street: Street) -> None:
    line = await street.pty(ModbusLine(**street.base("bus", ""), **QUICK))
    ws90 = await street.driver("ecowitt-ws90", line, "rtu")
    sensecap = await street.driver("sensecap-one", line, "rtu")
    rows = await asyncio.gather(one(ws90), one(sensecap), one(ws90), one(sensecap))
    assert dict(rows[0].values) == street.told("bus-144")[0]["values"]
    told = [answer["values"].get("co2") for answer in street.told("bus-1")]
    assert rows[1].values["co2"] in told
    await ws90.close()
    assert (await one(sensecap)).values.keys() == rows[1].values.keys()


async def test_devices_that_disagree_about_their_line_are_told(street: Street) -> None:
    line = await street.tcp(SenseCap(**street.base("weather", ""), **QUICK))
    await street.driver("sensecap-one", line, "tcp")
    with pytest.raises(LineError, match="another device uses it"):
        await street.driver("sensecap-one", line, "rtu")


async def test_a_broken_sensor_is_null_and_missing_among_good_ones(street: Street) -> None:
    line = await street.pty(Ws90(**street.base("weather", ""), **QUICK, broken="wind_speed+uv_index"))
    row = await one(await street.driver("ecowitt-ws90", line, "rtu"))
    assert row.values["wind_speed"] is None
    assert row.quality == {"wind_speed": Quality.MISSING, "uv_index": Quality.MISSING}
    assert row.values["air_temperature"] is not None


async def test_a_block_that_the_device_refuses_leaves_the_others_good(street: Street, tmp_path: Path) -> None:
    line = await street.tcp(Ws90(**street.base("weather", ""), **QUICK))
    more = (
        '[[read]]\nfunction = 3\naddress = 9\ncount = 1\n[[field]]\nname = "co2"\naddress = 9\ntype = "u16"\n'
    )
    path = tmp_path / "more.toml"
    path.write_text((FOLDER / "profiles" / "ecowitt-ws90.toml").read_text() + more)
    config = {"name": "w", "driver": "modbus", "profile_file": str(path), "line": line, "framing": "tcp"}
    driver = Modbus(Config.model_validate(config))
    await driver.connect(street.lines)
    row = await one(driver)
    assert row.values["air_temperature"] is not None
    assert "co2" not in row.values
    await driver.close()


@pytest.mark.parametrize("silent", [False, True])
async def test_a_device_that_refuses_to_be_read_over_a_hole_loses_no_value(
    street: Street, silent: bool
) -> None:
    sim = SenseCap(**street.base("weather", ""), **QUICK, silent_on_bad_address=silent)
    line = await street.pty(sim)
    driver = await street.driver("sensecap-one", line, "rtu", timeout_s=0.5 if silent else 10.0)
    for _ in range(4):
        assert None not in [
            (await one(driver)).values.get(field.name) for field in driver.streams()[0].fields
        ]
    troubles = dict(driver.troubles())
    assert troubles.pop("no_reply" if silent else "exception") == 1
    assert troubles.pop("answers") >= 12
    assert not troubles


async def test_a_device_that_refuses_everything_is_an_error(street: Street) -> None:
    line = await street.tcp(Ws90(**street.base("weather", ""), **QUICK))
    driver = await street.driver("sensecap-one", line, "tcp", unit=144)
    with pytest.raises(DeviceRefused, match="illegal function"):
        await driver.read()


async def test_a_unit_that_is_not_there_is_a_time_out(street: Street) -> None:
    line = await street.tcp(Ws90(**street.base("weather", ""), **QUICK))
    driver = await street.driver("ecowitt-ws90", line, "tcp", unit=7, timeout_s=0.02)
    with pytest.raises(DeviceTimeout, match=r"waited 0\.02 s"):
        await driver.read()


async def test_after_a_hang_up_the_device_is_read_again(street: Street) -> None:
    line = await street.pty(Ws90(**street.base("weather", "hangup@2"), **QUICK))
    driver = await street.driver("ecowitt-ws90", line, "rtu")
    await driver.read()
    with pytest.raises(LineError):
        await driver.read()
    row = None
    while row is None:
        with contextlib.suppress(LineError):  # the device may not have come back yet
            await driver.close()
            await driver.connect(street.lines)
            row = await one(driver)
    assert dict(row.values) == street.told("weather")[-1]["values"]


@pytest.mark.parametrize("framing", ["rtu", "ascii", "tcp"])
async def test_under_every_fault_no_value_is_taken_that_was_not_told_just_now(
    street: Street, framing: str
) -> None:
    faults = "silence=0.1,garbage=0.1,cut=0.1,checksum=0.1,late=0.1,hangup=0.05,late_s=0.08"
    sim = Ticking(**street.base("weather", faults), **QUICK, framing=framing)
    line = await (street.tcp(sim) if framing == "tcp" else street.pty(sim))
    driver = await street.driver("ecowitt-ws90", line, framing, timeout_s=0.05)
    good = failed = 0
    while good < 10 or failed < 8:
        try:
            row = await one(driver)
        except DeviceError as error:
            failed += 1
            await _recovered(driver, street.lines, error)
        else:
            good += 1
            assert dict(row.values) == street.told("weather")[-1]["values"]


async def _recovered(driver: Modbus, lines: Lines, error: DeviceError) -> None:
    while isinstance(error, LineError):
        await driver.close()
        try:
            await driver.connect(lines)
        except LineError as again:
            error = again
        else:
            return
    # The test has no minute to spare for a unit that rests.
    driver._bus._units[0x90].asleep_until = 0.0  # type: ignore[union-attr]  # it is connected


class Ticking(Ws90):
    """Tells other values each time it is asked."""

    def now_ns(self) -> int:
        self.asked = getattr(self, "asked", 0) + 1
        return 1_750_000_000_000_000_000 + self.asked * 977_000_000_000


# --- configuration --------------------------------------------------------------------------------

GOOD: dict[str, Any] = {
    "name": "weather",
    "driver": "modbus:ecowitt-ws90",
    "line": "serial:///dev/ttyUSB0?baud=9600",
    "framing": "rtu",
}


@pytest.mark.parametrize(
    ("change", "wanted"),
    [
        ({"framing": None}, "framing"),
        ({"framing": "tcp"}, 'framing "rtu" or "ascii" on a serial line'),
        ({"driver": "modbus:nothing"}, "a Modbus profile (.*ecowitt-ws90.*), not 'nothing'"),
        ({"driver": "modbus"}, "with profile_file = PATH"),
        ({"profile_file": "x.toml"}, "with profile_file = PATH"),
        ({"driver": "modbus", "profile_file": "/nowhere/x.toml"}, "no such file"),
        ({"line": "serial:///dev/ttyUSB0?speed=9600"}, "options baud, format and rs485"),
        ({"unit": 256}, "unit"),
        ({"unit": 0}, "broadcast"),
        ({"ignore_unit_id": True}, 'ignore_unit_id with framing "tcp" only'),
        ({"line": "tcp://h:502", "framing": "tcp", "echo": True}, "no echo"),
        ({"options": {"scale": "x10"}}, "no option 'scale'"),
        ({"driver": "modbus:xy-md02"}, "options.scale one of x10, x100, not nothing"),
        ({"driver": "modbus:xy-md02", "options": {"scale": "x7"}}, "one of x10, x100, not 'x7'"),
        ({"colour": "red"}, "colour"),
        ({"unit": 0, "ignore_unit_id": True, "options": {"a": "b"}}, "only.*broadcast.*no option 'a'"),
    ],
)
def test_each_mistake_in_the_configuration_is_named(change: dict[str, Any], wanted: str) -> None:
    table = {key: value for key, value in {**GOOD, **change}.items() if value is not None}
    Config.model_validate(GOOD)
    with pytest.raises(ValidationError, match=wanted.replace("(", r"\(").replace(")", r"\)")):
        Config.model_validate(table)


def test_the_constructor_raises_nothing_but_a_config_error(tmp_path: Path) -> None:
    path = tmp_path / "own.toml"
    path.write_text((FOLDER / "profiles" / "ecowitt-ws90.toml").read_text())
    config = Config.model_validate({**GOOD, "driver": "modbus", "profile_file": str(path)})
    path.unlink()
    with pytest.raises(ConfigError, match="no such file"):
        Modbus(config)


def test_the_time_out_is_the_profiles_unless_it_is_set() -> None:
    assert Modbus(Config.model_validate(GOOD))._party.timeout_s == 0.5
    assert Modbus(Config.model_validate({**GOOD, "timeout_s": 5.0}))._party.timeout_s == 5.0


def test_the_sample_loads_and_names_every_option_with_its_default() -> None:
    text = (FOLDER / "sample.toml").read_text()
    (device,) = tomllib.loads(text)["device"]
    Modbus(Config.model_validate(device))
    (full,) = tomllib.loads(re.sub(r"^# (\w+ = )", r"\1", text, flags=re.MULTILINE))["device"]
    assert full.keys() == Config.model_fields.keys()
    for key in ("options", "echo", "ignore_unit_id", "interval_s"):
        assert full[key] == Config.model_fields[key].default, key


def test_the_readme_shows_the_sample_and_names_every_profile_and_key() -> None:
    readme = (FOLDER / "README.md").read_text()
    for path in (FOLDER / "profiles").glob("*.toml"):
        assert f"`{path.stem}`" in readme
    for key in (
        "max_registers",
        "min_gap_ms",
        "forbidden",
        "word_order",
        "sentinel",
        "resolution",
        "options",
        "poll",
    ):
        assert f"`{key}`" in readme
    assert "sample.toml" in readme
