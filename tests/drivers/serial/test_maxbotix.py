"""The MaxBotix driver against a simulated sensor on a pty, and its decoder against damage."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from trisense.core.errors import DeviceTimeout
from trisense.drivers.maxbotix import MODELS, Maxbotix, MaxbotixCodec, MaxbotixConfig, MaxbotixDecoder
from trisense.sims.base import plugged
from trisense.sims.maxbotix import Maxbotix as Sensor

CODEC = MaxbotixCodec(MODELS["hrxl-5m"])


def distances(data: bytes, model: str = "hrxl-5m") -> list[float | None]:
    return [frame["values"]["distance"] for frame in MaxbotixCodec(MODELS[model]).frames(data)]


def driver(link: Path, **options: Any) -> Maxbotix:
    settings = {"name": "gauge", "driver": "maxbotix", "line": f"serial://{link}", **options}
    return Maxbotix(MaxbotixConfig.model_validate(settings))


@pytest.mark.parametrize("at", range(7))
def test_a_stray_byte_is_left_out_wherever_it_stands(at: int) -> None:
    text = b"R1234\r"
    assert distances(text[:at] + b"\xff" + text[at:] + b"R0301\r") == [1.234, 0.301]


@pytest.mark.parametrize(
    "text", [b"R123\r", b"R12345\r", b"R12x4\r", b"r1234\r", b"R1234\n", b"R 123\r", b"R1234"]
)
def test_text_of_another_form_is_refused(text: bytes) -> None:
    assert distances(text) == []


def test_a_cut_text_does_not_take_the_next_one_with_it(every_split: Any) -> None:
    for size in range(6):
        assert distances(b"R0999\r"[:size] + b"R1234\r") == [1.234]
    every_split(
        lambda: MaxbotixDecoder(MODELS["hrxl-5m"]), b"12\rR99R1\xff234\r" + b"\xff" * 20 + b"R0500\rR0"
    )


def test_stray_bytes_without_an_end_do_not_hold_up_the_next_text() -> None:
    assert distances(b"R1" + b"\xff" * 40 + b"R1234\r") == [1.234]


@pytest.mark.parametrize(
    ("model", "text", "distance_m"),
    [
        ("hrxl-5m", b"R5000\r", None),
        ("hrxl-10m", b"R5000\r", 5.0),
        ("hrxl-10m", b"R9999\r", None),
        ("xl", b"R123\r", 1.23),
        ("xl", b"R765\r", None),
    ],
)
def test_the_longest_range_is_no_echo(model: str, text: bytes, distance_m: float | None) -> None:
    assert distances(text, model) == [distance_m]


async def test_it_reads_what_the_sensor_tells(tmp_path: Path, sensor: Any, told: Any, observe: Any) -> None:
    device = driver(tmp_path / "tty")
    async with plugged(sensor(Sensor, period_s=0.01, stray=0.5), tmp_path / "tty"):
        rows = await observe(device, 10)
    assert [dict(row.values) for row in rows] == [line["values"] for line in told()[:10]]


async def test_cut_and_noisy_texts_are_never_believed(
    tmp_path: Path, sensor: Any, told: Any, observe: Any
) -> None:
    async with plugged(sensor(Sensor, faults="cut=0.2,garbage=0.2", period_s=0.01), tmp_path / "tty"):
        device = driver(tmp_path / "tty")
        rows = await observe(device, 20)
    good = [line["values"] for line in told() if line["fault"] in (None, "garbage")]
    assert device.damaged_count > 2
    assert [row for row in rows if dict(row.values) not in good] == []


async def test_a_silent_sensor_is_a_timeout(tmp_path: Path, sensor: Any, observe: Any) -> None:
    async with plugged(sensor(Sensor, period_s=60), tmp_path / "tty"):
        with pytest.raises(DeviceTimeout, match="gauge: no good frame"):
            await observe(driver(tmp_path / "tty", timeout_s=0.1), 1)
