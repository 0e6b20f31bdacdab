"""Every driver folder has a README and a sample that loads, names each option and shows its default."""

from __future__ import annotations

import re
import tomllib
from importlib import resources
from pathlib import Path
from typing import Any

import pytest
from pydantic import BaseModel
from trisense.core.config import ConfigModel, check
from trisense.drivers.registry import known, load
from trisense.drivers.sdk import DeviceConfig

DRIVERS = sorted(known())
COMMENTED = re.compile(r"^#\s*(\w+) = (.*)$", re.MULTILINE)
SHARED_KEYS = frozenset(DeviceConfig.model_fields)


def text_of(name: str, file: str) -> str:
    return (resources.files(known()[name].module) / file).read_text(encoding="utf-8")


def own_keys(model: type[BaseModel]) -> set[str]:
    """Keys that this driver adds to what every device has."""
    return set(model.model_fields) - SHARED_KEYS


@pytest.mark.parametrize("name", DRIVERS)
def test_the_sample_loads(name: str) -> None:
    class Box(ConfigModel):
        device: tuple[load(name).config_model, ...]  # type: ignore[valid-type]  # known at run time only

    box = check(Path("sample.toml"), tomllib.loads(text_of(name, "sample.toml")), Box)
    device: Any = box.device[0]
    assert device.driver.partition(":")[0] == name
    assert load(name)(device).streams()


@pytest.mark.parametrize("name", DRIVERS)
def test_the_sample_names_every_option_of_the_driver(name: str) -> None:
    text = text_of(name, "sample.toml")
    named = set(tomllib.loads(text)["device"][0]) | {key for key, _ in COMMENTED.findall(text)}
    assert own_keys(load(name).config_model) <= named


@pytest.mark.parametrize("name", DRIVERS)
def test_an_option_that_is_commented_out_shows_its_default(name: str) -> None:
    model = load(name).config_model
    for key, shown in COMMENTED.findall(text_of(name, "sample.toml")):
        assert key in model.model_fields, key
        default = model.model_fields[key].get_default(call_default_factory=True, validated_data={})
        # A key without a default, or with an empty one, may show an example.
        if isinstance(default, str | int | float) and key in own_keys(model):
            assert tomllib.loads(f"{key} = {shown}")[key] == default, key


@pytest.mark.parametrize("name", DRIVERS)
def test_the_readme_begins_with_what_it_is(name: str) -> None:
    readme = text_of(name, "README.md")
    assert readme.startswith("# ")
    assert len(readme.split("\n## ", 1)[0].strip().splitlines()) > 2


@pytest.mark.parametrize("name", DRIVERS)
def test_every_option_has_its_documentation_in_the_code(name: str) -> None:
    undocumented = {k for k, info in load(name).config_model.model_fields.items() if not info.description}
    assert undocumented == set()
