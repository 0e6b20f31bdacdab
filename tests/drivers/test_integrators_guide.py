"""The integrator's guide is code that runs: its driver reads a pty, its checks hold."""

from __future__ import annotations

import importlib.util
import os
import re
import sys
import tty
from collections.abc import Iterator
from contextlib import aclosing
from pathlib import Path
from types import ModuleType

import pytest
from trisense.drivers import Lines

GUIDE = Path(__file__).parents[2] / "drivers" / "README.md"


@pytest.fixture(scope="module")
def guide(tmp_path_factory: pytest.TempPathFactory) -> ModuleType:
    """The module that the guide's Python blocks make, imported; its checks ran."""
    blocks = re.findall(
        r"^```python\n(.*?)^```$", GUIDE.read_text(encoding="utf-8"), re.MULTILINE | re.DOTALL
    )
    file = tmp_path_factory.mktemp("guide") / "sonar_guide.py"
    file.write_text("\n".join(blocks), encoding="utf-8")
    spec = importlib.util.spec_from_file_location("sonar_guide", file)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules["sonar_guide"] = module  # pydantic looks the module of a model up
    spec.loader.exec_module(module)
    return module


@pytest.fixture
def sonar_tty() -> Iterator[tuple[int, str]]:
    """The device's end of a pty, and the path of the host's."""
    master, slave = os.openpty()
    tty.setraw(slave)
    yield master, os.ttyname(slave)
    os.close(slave)
    os.close(master)


async def test_the_guides_driver_reads_a_uart(guide: ModuleType, sonar_tty: tuple[int, str]) -> None:
    device, path = sonar_tty
    config = guide.SonarConfig(name="well", driver="hrxl-sonar", line=f"serial://{path}", offset_m=0.5)
    driver = guide.Sonar(config)
    await driver.connect(Lines())
    os.write(device, b"\xff\rR1234\rR12x4\rR0750\r")
    rows = []
    async with aclosing(driver.observe()) as observed:
        async for row in observed:
            rows.append(row.values["distance"])
            if len(rows) == 2:
                break
    await driver.close()
    assert rows == [1.734, 1.25]
    assert driver.damaged_count == 2


def test_the_guides_driver_is_complete(guide: ModuleType) -> None:
    config = guide.SonarConfig(name="well", driver="hrxl-sonar", line="serial:///dev/ttyUSB0")
    (stream,) = guide.Sonar(config).streams()
    assert [(field.name, field.unit) for field in stream.fields] == [("distance", "m")]
    assert all(info.description for info in guide.SonarConfig.model_fields.values())


def test_the_guide_names_only_what_the_kit_has() -> None:
    import trisense.drivers  # noqa: PLC0415  # the names are the subject here

    table = GUIDE.read_text(encoding="utf-8").split("## The kit", 1)[1].split("\n## ", 1)[0]
    named = {name for row in table.splitlines()[4:] for name in re.findall(r"`(\w+)`", row.split("|")[1])}
    assert named
    assert named <= set(trisense.drivers.__all__)
