"""What every registered driver promises, held against all of them: see drivers/README.md."""

from __future__ import annotations

import asyncio
import json
import socket
import tomllib
from collections.abc import Mapping
from contextlib import aclosing
from functools import cache
from importlib import resources
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from trisense.core.errors import DeviceError
from trisense.core.model import NAME, RESERVED, Quality
from trisense.drivers import Codec, Driver, GivenCodec, Lines, Observed, Part, PolledDriver
from trisense.drivers.registry import known, load

DRIVERS = sorted(known())
VECTORS = Path(__file__).parent / "vectors"


@cache
def codecs() -> Mapping[str, tuple[Codec, type[Driver[Any]]]]:
    return {device: (codec, load(name)) for name in DRIVERS for device, codec in load(name).codecs.items()}


@cache
def captured() -> Mapping[str, list[bytes]]:
    """Real and documented bytes of each device, out of the vectors."""
    found: dict[str, list[bytes]] = {}
    for file in VECTORS.glob("*_vectors.json"):
        content = json.loads(file.read_text(encoding="utf-8"))
        for vector in content["vectors"] if isinstance(content, dict) else content:
            text = vector.get("hex", vector.get("hex_or_text"))
            for one in text if isinstance(text, list) else [text] * isinstance(text, str):
                data = (VECTORS / one).read_bytes() if one.startswith("data/") else one.encode()
                if set(one) <= set("0123456789abcdefABCDEF"):
                    data = bytes.fromhex(one)
                found.setdefault(vector["device"], []).append(data)
    return found


def sample(name: str, **changes: Any) -> Driver[Any]:
    text = (resources.files(known()[name].module) / "sample.toml").read_text(encoding="utf-8")
    cls = load(name)
    return cls(cls.config_model.model_validate({**tomllib.loads(text)["device"][0], **changes}))


def check_rows(rows: list[Observed]) -> None:
    """Rows must be what the runtime can take."""
    for row in rows:
        assert NAME.fullmatch(row.measurement)
        for name, value in row.values.items():
            assert NAME.fullmatch(name)
            assert value is None or type(value) in (int, float, str)
            assert not isinstance(value, float) or value - value == 0, "no NaN and no infinity"
        assert all(isinstance(code, Quality) for code in row.quality.values())


def read_all(codec: Codec, data: bytes) -> list[Observed]:
    """Everything a codec can be asked about bytes."""
    codec.damaged(data)
    frames = list(codec.frames(data))
    if isinstance(codec, GivenCodec):
        frames += codec.frames_given([Part(data)], {})
    return [row for frame in frames for row in codec.observed(frame)]


@pytest.mark.parametrize("device", sorted(codecs()))
@settings(max_examples=60, deadline=None)
@given(data=st.binary(max_size=300))
def test_a_codec_takes_any_bytes(device: str, data: bytes) -> None:
    check_rows(read_all(codecs()[device][0], data))


@pytest.mark.parametrize("device", sorted(set(codecs()) & set(captured())))
@settings(max_examples=25, deadline=None)
@given(data=st.data())
def test_a_codec_takes_captured_bytes_however_damaged(device: str, data: st.DataObject) -> None:
    whole = bytearray(data.draw(st.sampled_from(captured()[device])))
    for _ in range(data.draw(st.integers(0, 3))):
        whole[data.draw(st.integers(0, len(whole) - 1))] = data.draw(st.integers(0, 255))
    start = data.draw(st.integers(0, len(whole) // 4))
    end = data.draw(st.integers(len(whole) // 2, len(whole)))
    check_rows(read_all(codecs()[device][0], bytes(whole[start:end])))


@pytest.mark.parametrize("name", DRIVERS)
async def test_a_driver_can_be_closed_before_it_is_connected_and_twice(name: str) -> None:
    driver = sample(name)
    await driver.close()
    await driver.close()


@pytest.mark.parametrize("name", DRIVERS)
def test_the_streams_are_known_before_anything_is_connected(name: str) -> None:
    streams = sample(name).streams()
    assert streams
    assert len({stream.key for stream in streams}) == len(streams)
    for stream in streams:
        names = [field.name for field in stream.fields]
        assert len(set(names)) == len(names)
        assert all(NAME.fullmatch(name) for name in (stream.measurement, *names))
        assert not RESERVED & set(names)


async def first_row(driver: Driver[Any]) -> None:
    """Connect and read once, as the runtime does."""
    await driver.connect(Lines())
    if isinstance(driver, PolledDriver):
        await driver.read()
        return
    async with aclosing(driver.observe()) as rows:  # type: ignore[attr-defined]  # a streaming driver
        await anext(rows)


@pytest.mark.parametrize("name", DRIVERS)
async def test_a_device_that_is_not_there_is_a_device_error(name: str, tmp_path: Path) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))  # bound and not listening: connections are refused
        port = taken.getsockname()[1]
        gone = {
            "line": f"tcp://127.0.0.1:{port}",
            "url": f"http://127.0.0.1:{port}/picture",
            "folder": str(tmp_path / "none"),
        }
        keys = load(name).config_model.model_fields
        driver = sample(name, **{key: value for key, value in gone.items() if key in keys})
        with pytest.raises(DeviceError):
            await first_row(driver)
    await driver.close()
    await asyncio.sleep(0)
    assert len(asyncio.all_tasks()) == 1, "a task was left behind"
