"""Configuration mistakes are told all at once, each with its place, what was expected and what came."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

import pytest
from pydantic import Field
from trisense.core.config import ConfigModel, load_toml, parse_toml, read_secret, read_toml
from trisense.core.errors import ConfigError, Mistake


class Device(ConfigModel):
    name: str
    interval_s: float = Field(1.0, gt=0)


class Box(ConfigModel):
    id: str
    port: int = 1883
    device: tuple[Device, ...] = ()


def mistakes(tmp_path: Path, text: str) -> list[Mistake]:
    file = tmp_path / "box.toml"
    file.write_text(text)
    with pytest.raises(ConfigError) as caught:
        load_toml(file, Box)
    assert caught.value.file == str(file)
    return list(caught.value.mistakes)


def test_a_good_file_becomes_its_model(tmp_path: Path) -> None:
    (tmp_path / "box.toml").write_text('id = "kx"\n[[device]]\nname = "wx"\ninterval_s = 2\n')
    box = load_toml(tmp_path / "box.toml", Box)
    assert box == Box(id="kx", device=(Device(name="wx", interval_s=2),))


def test_every_mistake_is_named_with_its_key_path(tmp_path: Path) -> None:
    text = 'id = "kx"\nport = "high"\nprot = 1\n[[device]]\nname = "a"\ninterval_s = 0\n[[device]]\n'
    found = {m.where: m for m in mistakes(tmp_path, text)}
    assert set(found) == {"port", "prot", "device[0].interval_s", "device[1].name"}
    assert found["prot"] == Mistake("prot", "a known key", "an unknown one")
    assert found["device[1].name"] == Mistake("device[1].name", "a value", "nothing")
    assert found["device[0].interval_s"].got == "0"
    assert "integer" in found["port"].expected
    assert found["port"].got == "'high'"


def test_an_unknown_kind_names_the_known_ones(tmp_path: Path) -> None:
    class Disk(ConfigModel):
        kind: Literal["disk"]

    class Net(ConfigModel):
        kind: Literal["net"]

    class Store(ConfigModel):
        store: Annotated[Disk | Net, Field(discriminator="kind")]

    file = tmp_path / "gateway.toml"
    file.write_text('[store]\nkind = "cloud"\n')
    with pytest.raises(ConfigError) as caught:
        load_toml(file, Store)
    assert caught.value.mistakes == (Mistake("store.kind", "one of 'disk', 'net'", "'cloud'"),)


def test_broken_toml_names_its_line(tmp_path: Path) -> None:
    (mistake,) = mistakes(tmp_path, 'id = "kx"\nport = \n')
    assert mistake.expected == "valid TOML"
    assert "line 2" in mistake.got


def test_a_missing_file_says_so(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="no such file"):
        load_toml(tmp_path / "none.toml", Box)


@pytest.mark.parametrize("key", ["password", "api_token", "client_secret"])
def test_a_secret_in_the_file_is_a_mistake_and_is_not_echoed(tmp_path: Path, key: str) -> None:
    found = mistakes(tmp_path, f'id = "kx"\n[[device]]\nname = "a"\n{key} = "hunter2"\n')
    (mistake,) = found
    assert mistake.where == f"device[0].{key}"
    assert f"{key}_file" in mistake.expected
    assert "hunter2" not in str(mistake)


def test_a_secret_file_gives_its_first_line(tmp_path: Path) -> None:
    file = tmp_path / "token"
    file.write_text("s3cret\nsecond line\n")
    assert read_secret(file) == "s3cret"


@pytest.mark.parametrize("content", [None, "", "\n\n"])
def test_a_missing_or_empty_secret_is_an_error(tmp_path: Path, content: str | None) -> None:
    file = tmp_path / "token"
    if content is not None:
        file.write_text(content)
    with pytest.raises(ConfigError, match="secret"):
        read_secret(file)


@pytest.mark.parametrize(
    "text",
    [
        "a." * 45_000 + "b = 1",
        '"a" . ' * 15_000 + "b = 1",
        "[" + "a." * 45_000 + "b]",
        "a=" + "[" * 40 + "]" * 40,
    ],
)
def test_keys_and_values_nested_too_deep_are_refused(text: str) -> None:
    with pytest.raises(ConfigError, match="at most 32 levels of nesting"):  # the parser alone takes a minute
        parse_toml(Path("hostile.toml"), text)


def test_keys_of_a_few_parts_are_none_of_those() -> None:
    assert parse_toml(Path("box.toml"), 'a.b."c d".e = "10.0.0.1"') == {
        "a": {"b": {"c d": {"e": "10.0.0.1"}}}
    }


def test_a_file_without_an_end_is_no_configuration() -> None:
    with pytest.raises(ConfigError, match="expected at most 4194304 bytes, got more"):
        read_toml(Path("/dev/zero"))
