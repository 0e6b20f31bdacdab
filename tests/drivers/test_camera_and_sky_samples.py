"""The samples of the camera and the scene driver load, name every option, and tell the true defaults."""

from __future__ import annotations

import tomllib
from pathlib import Path

import pytest
from trisense.drivers import DeviceConfig
from trisense.drivers.camera import Config as CameraConfig
from trisense.drivers.sky import Config as SkyConfig

DRIVERS = Path(__file__).parents[2] / "drivers" / "trisense" / "drivers"
COMMON = {"name", "driver", "site", "position"}
"""What every device has; told once in the box's own sample."""

BOTH = pytest.mark.parametrize(("folder", "model"), [("camera", CameraConfig), ("sky", SkyConfig)])


def table(text: str) -> dict[str, object]:
    found = tomllib.loads(text)["device"][0]
    assert isinstance(found, dict)
    return found


def sample(folder: str, *, everything: bool = False) -> dict[str, object]:
    lines = (DRIVERS / folder / "sample.toml").read_text(encoding="utf-8").splitlines()
    return table("\n".join(line.removeprefix("# ") if everything else line for line in lines))


@BOTH
def test_the_sample_loads_as_it_stands_and_with_every_option_live(
    folder: str, model: type[DeviceConfig]
) -> None:
    assert model.model_validate(sample(folder))
    assert model.model_validate(sample(folder, everything=True))


@BOTH
def test_the_sample_names_every_option(folder: str, model: type[DeviceConfig]) -> None:
    assert set(sample(folder, everything=True)) | COMMON == set(model.model_fields)


@BOTH
def test_a_commented_option_shows_its_default(folder: str, model: type[DeviceConfig]) -> None:
    live = sample(folder)
    for name, shown in sample(folder, everything=True).items():
        default = model.model_fields[name].default
        # An option without a default of its own shows an example, and the sample says so.
        if name not in live and default not in (None, ()):
            assert shown == default, name
