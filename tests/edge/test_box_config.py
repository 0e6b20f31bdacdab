"""A box's configuration: every mistake at once, with file, key path, expected and got."""

from __future__ import annotations

from pathlib import Path

import pytest
from trisense.core.errors import ConfigError
from trisense.edge.config import BoxConfig, load

GOOD = """
[box]
id = "kx-001"
site = "kx"
[mqtt]
host = "127.0.0.1"
port = 1883
password_file = "secret"
username = "kx-001"
[[device]]
name = "dust"
driver = "plantower"
line = "serial:///dev/ttyUSB0?baud=9600"
"""


def loaded(tmp_path: Path, text: str) -> BoxConfig:
    file = tmp_path / "box.toml"
    file.write_text(text)
    return load(file)


def mistakes(tmp_path: Path, text: str) -> dict[str, tuple[str, str]]:
    with pytest.raises(ConfigError) as caught:
        loaded(tmp_path, text)
    assert caught.value.file == str(tmp_path / "box.toml")
    return {m.where: (m.expected, m.got) for m in caught.value.mistakes}


def test_paths_are_taken_from_the_files_folder(tmp_path: Path) -> None:
    config = loaded(tmp_path, GOOD)
    assert config.spool.path == tmp_path / "spool.db"
    assert config.mqtt.password_file == tmp_path / "secret"
    assert [device.name for device in config.devices] == ["dust"]


def test_the_hash_tells_one_configuration_from_another(tmp_path: Path) -> None:
    one = loaded(tmp_path, GOOD).hash
    assert one == loaded(tmp_path, "# a comment\n" + GOOD).hash
    assert one != loaded(tmp_path, GOOD.replace("kx-001", "kx-002")).hash


def test_all_mistakes_of_all_tables_and_devices_come_at_once(tmp_path: Path) -> None:
    found = mistakes(
        tmp_path,
        """
[box]
id = "KX 1"
site = "kx"
colour = "red"
[mqtt]
host = "127.0.0.1"
password = "hunter2"
[spool]
max_bytes = "many"
[[device]]
name = "box"
driver = "plantower"
line = "tcp://127.0.0.1"
[[device]]
name = "dust"
driver = "plantowr"
[[device]]
name = "dust"
driver = "plantower"
line = "serial:///dev/ttyUSB0"
interval_s = "often"
[[device]]
name = "late"
""",
    )
    assert found.keys() == {
        "box.id",
        "box.colour",
        "mqtt.port",
        "mqtt.password",
        "spool.max_bytes",
        "device[0].name",
        "device[0].line",
        "device[1].driver",
        "device[2].name",
        "device[2].interval_s",
        "device[3].driver",
    }
    assert found["mqtt.port"] == ("a value", "nothing")
    assert found["device[0].line"] == ("tcp://HOST:PORT with a port", "'tcp://127.0.0.1'")
    assert found["device[1].driver"][1] == "'plantowr'"
    assert "plantower" in found["device[1].driver"][0]
    assert "hunter2" not in str(found)


@pytest.mark.parametrize(
    ("change", "where"),
    [
        (("username", "user_name"), "mqtt.user_name"),
        (('site = "kx"', 'site = "kx"\nlatitude = 48.1'), "box"),
        (("port = 1883", "port = 1883\ncert_file = 'x'"), "mqtt"),
        (("port = 1883", "port = 70000"), "mqtt.port"),
        (('site = "kx"', 'site = "kx"\nlatitude = 98.1\nlongitude = 1'), "box.latitude"),
    ],
)
def test_each_mistake_names_its_key(tmp_path: Path, change: tuple[str, str], where: str) -> None:
    assert where in mistakes(tmp_path, GOOD.replace(*change))


def test_a_file_without_devices_or_tables_says_what_is_missing(tmp_path: Path) -> None:
    assert mistakes(tmp_path, "").keys() == {"box", "mqtt", "device"}
    assert mistakes(tmp_path, "device = 3").keys() == {"box", "mqtt", "device"}
    assert "valid TOML" in mistakes(tmp_path, "[box")["file"][0]
