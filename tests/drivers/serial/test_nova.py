"""The Nova driver against a simulated sensor on a pty, and its decoder against damage."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from trisense.core.errors import DeviceTimeout, LineError
from trisense.core.model import Quality
from trisense.drivers import Lines
from trisense.drivers.nova import Nova, NovaConfig
from trisense.drivers.nova.codec import NovaCodec, NovaDecoder
from trisense.sims.base import plugged
from trisense.sims.nova import Nova as Sensor

GOOD = bytes.fromhex("aac0d4043a0aa1601dab")
CODEC = NovaCodec("sds011")


def driver(link: Path, **options: Any) -> Nova:
    settings = {"name": "dust", "driver": "nova", "line": f"serial://{link}", "warm_up_s": 0, **options}
    return Nova(NovaConfig.model_validate(settings))


def summed(kind: int, payload: bytes) -> bytes:
    return bytes((0xAA, kind)) + payload + bytes((sum(payload) & 0xFF, 0xAB))


# --- decoder ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("at", range(len(GOOD)))
def test_every_damaged_bit_of_a_report_is_noticed(at: int) -> None:
    for bit in range(8):
        damaged = bytearray(GOOD)
        damaged[at] ^= 1 << bit
        assert CODEC.frames(bytes(damaged)) == []


def test_a_cut_report_does_not_take_the_next_one_with_it(every_split: Any) -> None:
    for size in range(len(GOOD)):
        assert len(CODEC.frames(GOOD[:size] + GOOD)) == 1
    every_split(lambda: NovaDecoder("sds011"), b"\x00\xaa" + GOOD[:5] + GOOD + b"\xaa\xc0" + GOOD)


@pytest.mark.parametrize(
    ("payload", "why"), [("000000000000", "empty"), ("3a0ad404a160", "implausible"), ("ffff0000a160", "impl")]
)
def test_a_report_that_cannot_be_true_is_refused_though_its_sum_is_right(payload: str, why: str) -> None:
    frame = summed(0xC0, bytes.fromhex(payload))
    assert CODEC.frames(frame) == []
    assert why in " ".join(CODEC.damaged(frame))


def test_the_models_do_not_read_each_other() -> None:
    assert CODEC.frames(bytes.fromhex("aacf0e001000e9050cab")) == []
    assert NovaCodec("sds198").frames(GOOD) == []


@pytest.mark.parametrize("payload", ["060102000000", "080120000000", "020001010000", "ff0000000000"])
def test_what_no_sensor_replies_is_refused(payload: str) -> None:
    assert CODEC.frames(summed(0xC5, bytes.fromhex(payload))) == []


def test_replies_are_no_readings() -> None:
    (reply,) = CODEC.frames(bytes.fromhex("aac508000200a1600bab"))
    assert (reply["reply"], reply["minutes"]) == ("period", 2)
    assert CODEC.observed(reply) == ()


# --- driver -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("model", ["sds011", "sds198"])
async def test_it_reads_what_the_sensor_tells(
    model: str, tmp_path: Path, sensor: Any, told: Any, observe: Any
) -> None:
    device = driver(tmp_path / "tty", model=model)
    async with plugged(sensor(Sensor, model=model, report_s=0.01, fan_start_s=0), tmp_path / "tty"):
        rows = await observe(device, 3)
    assert [dict(row.values) for row in rows] == [line["values"] for line in told()[:3]]
    (stream,) = device.streams()
    assert set(rows[0].values) == {field.name for field in stream.fields}


async def test_damaged_frames_are_counted_and_never_believed(
    tmp_path: Path, sensor: Any, told: Any, observe: Any
) -> None:
    faults = "checksum=0.15,cut=0.15,garbage=0.1,silence=0.1"
    async with plugged(sensor(Sensor, faults=faults, report_s=0.01, fan_start_s=0), tmp_path / "tty"):
        device = driver(tmp_path / "tty")
        rows = await observe(device, 40)
    good = [line["values"] for line in told() if line["fault"] in (None, "garbage")]
    assert device.damaged_count > 5
    assert [row for row in rows if dict(row.values) not in good] == []


async def test_a_sleeping_sensor_is_woken_through_its_noise(
    tmp_path: Path, sensor: Any, observe: Any
) -> None:
    sim = sensor(Sensor, asleep=True, report_s=0.01, fan_start_s=0)
    sim.active = False
    async with plugged(sim, tmp_path / "tty"):
        await observe(driver(tmp_path / "tty"), 1)
    assert (sim.asleep, sim.active) == (False, True)


async def test_zeros_of_a_fan_that_starts_are_no_clean_air(tmp_path: Path, sensor: Any, observe: Any) -> None:
    async with plugged(sensor(Sensor, report_s=0.01, fan_start_s=0.1), tmp_path / "tty"):
        device = driver(tmp_path / "tty", warm_up_s=30)
        (row,) = await observe(device, 1)
    assert row.values["pm10"]
    assert set(row.quality.values()) == {Quality.NOT_EVALUATED}
    assert device.damaged_count > 0


async def test_a_sensor_that_stays_silent_is_a_timeout(tmp_path: Path, sensor: Any, observe: Any) -> None:
    async with plugged(sensor(Sensor, asleep=True), tmp_path / "tty"):
        with pytest.raises(DeviceTimeout, match="dust: no good frame"):
            await observe(driver(tmp_path / "tty", wake=False, timeout_s=0.2), 1)


async def test_the_working_period_is_written_only_where_it_is_another(tmp_path: Path, sensor: Any) -> None:
    sim = sensor(Sensor, period_min=5)
    written = []

    async def watched(end: Any, code: int, setting: int, value: int) -> None:
        if code == 8 and setting:
            written.append(value)
        await Sensor._do(sim, end, code, setting, value)

    sim._do = watched
    async with plugged(sim, tmp_path / "tty"):
        for minutes in (5, 10, 10, 0):
            device = driver(tmp_path / "tty", period_min=minutes)
            await device.connect(Lines())
            await device.close()
    assert written == [10, 0]


async def test_a_reply_that_is_hit_by_noise_is_asked_for_again(tmp_path: Path, sensor: Any) -> None:
    sim = sensor(Sensor, report_s=60, faults="checksum@1,cut@2")
    async with plugged(sim, tmp_path / "tty"):
        device = driver(tmp_path / "tty", wake=False, period_min=0)
        await device.connect(Lines())
        await device.close()


async def test_a_period_gives_the_sensor_time(tmp_path: Path) -> None:
    assert driver(tmp_path / "tty", period_min=5, timeout_s=5).silence_s() == 305


async def test_a_period_needs_a_sensor_that_hears(tmp_path: Path, sensor: Any, observe: Any) -> None:
    async with plugged(sensor(Sensor, asleep=True), tmp_path / "tty"):
        with pytest.raises(DeviceTimeout, match="no answer"):
            await observe(driver(tmp_path / "tty", wake=False, period_min=5, timeout_s=0.05), 1)


async def test_a_sensor_that_was_unplugged_is_read_again(tmp_path: Path, sensor: Any, observe: Any) -> None:
    sim = sensor(Sensor, faults="hangup@6", report_s=0.01, fan_start_s=0)
    async with plugged(sim, tmp_path / "tty"):
        device = driver(tmp_path / "tty")
        with pytest.raises(LineError):
            await observe(device, 20)
        assert len(await observe(device, 3)) == 3
