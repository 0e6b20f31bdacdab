"""A configuration from afar: what may be in it, what it would change, and which one a box begins with."""

from __future__ import annotations

import contextlib
import dataclasses
import json
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from trisense.core.errors import ConfigError, RemoteError
from trisense.core.remote import Desired, content_hash
from trisense.edge.commands import edge as commands
from trisense.edge.config import BoxConfig, load
from trisense.edge.remote import record
from trisense.edge.remote.checking import from_afar, needs_restart
from trisense.edge.remote.difference import difference
from trisense.edge.remote.door import door
from trisense.edge.remote.keeper import Keeper
from typer.testing import CliRunner

BOX = '[box]\nid = "kx-001"\nsite = "kx"\n'
MQTT = '[mqtt]\nhost = "127.0.0.1"\nport = 1883\npassword_file = "/run/keys/mqtt"\nusername = "kx-001"\n'
DUST = '[[device]]\nname = "dust"\ndriver = "plantower"\nline = "tcp://127.0.0.1:1"\n'
LINE = "serial:///dev/serial/by-id/a?baud=9600"
WEATHER = f'[[device]]\nname = "weather"\ndriver = "modbus:ecowitt-ws90"\nline = "{LINE}"\nframing = "rtu"\n'
LOCAL = BOX + '[spool]\npath = "q.db"\n' + MQTT + DUST

PIECES = [
    "\n[spool]\n",
    "\n[remote]\n",
    "[[device]]\n",
    "[",
    "]]",
    '"',
    "=",
    ".",
    "\\",
    "nan",
    "1e999",
    "[]",
    "{}",
]

Write = Callable[[str], BoxConfig]


@pytest.fixture
def write(tmp_path: Path) -> Write:
    """Makes the box's own file."""

    def make(text: str) -> BoxConfig:
        file = tmp_path / "box.toml"
        file.write_text(text)
        return load(file)

    return make


@pytest.fixture
def local(write: Write) -> BoxConfig:
    return write(LOCAL)


def mistakes(local: BoxConfig, content: str) -> list[str]:
    with pytest.raises(ConfigError) as caught:
        from_afar(local, content)
    return [mistake.where for mistake in caught.value.mistakes]


# --- what may be in it ---


def test_tables_of_the_deployers_that_are_left_out_stay_as_they_are(local: BoxConfig) -> None:
    config = from_afar(local, BOX + MQTT + DUST + WEATHER)
    assert config.spool == local.spool
    assert [device.name for device in config.devices] == ["dust", "weather"]


def test_what_only_the_deployer_may_change_is_refused_with_every_other_mistake(local: BoxConfig) -> None:
    text = (
        LOCAL.replace("kx-001", "kx-002", 1).replace('site = "kx"', 'site = "ky"').replace("q.db", "/etc/x")
    )
    text = text.replace("1883", "99999") + "[remote]\nconfig = false\n"
    assert set(mistakes(local, text)) == {"mqtt.port", "box.id", "box.site", "spool.path", "remote.config"}


def test_a_default_that_is_spelled_out_changes_nothing(local: BoxConfig) -> None:
    assert from_afar(local, LOCAL + "[remote]\nhealth_s = 120.0\n").remote == local.remote


def test_a_box_id_is_never_assumed(local: BoxConfig) -> None:
    assert "box.id" in mistakes(local, LOCAL.replace('id = "kx-001"\n', ""))


@pytest.mark.parametrize("name", ["/etc/shadow", "../../../etc/shadow", "sub/../../up"])
def test_a_secret_file_elsewhere_on_the_box_cannot_be_named(local: BoxConfig, name: str) -> None:
    assert mistakes(local, LOCAL.replace("/run/keys/mqtt", name)) == ["mqtt.password_file"]


def test_secret_files_where_the_deployer_put_them_can_be_named(local: BoxConfig) -> None:
    assert from_afar(local, LOCAL.replace("/run/keys/mqtt", "new-password")).mqtt.password_file == (
        local.path.parent / "new-password"
    )


RADAR = '[[device]]\nname = "radar"\ndriver = "ti-mmwave"\nline = "tcp://127.0.0.1:2"\n'
SCENES = (
    '[[device]]\nname = "scenes"\ndriver = "ndvi-scenes"\nfolder = "scenes"\n'
    'sites = [{ name = "a", latitude = 1, longitude = 1 }]\n'
)
SECRETS = LOCAL.replace(
    "port = 1883\n", 'port = 1883\nca_file = "ca.crt"\ncert_file = "a.crt"\nkey_file = "a.key"\n'
)


@pytest.mark.parametrize(
    ("content", "where"),
    [
        # The private key, sent to a device that is somebody's program; as somebody's password.
        (
            SECRETS + RADAR + 'configuration = "a.key"\ncli_line = "tcp://10.0.0.9:1"\n',
            "device[1].configuration",
        ),
        (SECRETS.replace("/run/keys/mqtt", "a.key"), "mqtt.password_file"),
        # Any file, told byte by byte by a decoder's complaints.
        (SECRETS + RADAR.replace("tcp://127.0.0.1:2", "replay:///etc/shadow"), "device[1].line"),
        (SECRETS + RADAR.replace("tcp://127.0.0.1:2", "replay:///run/keys/mqtt?speed=1"), "device[1].line"),
        # The box's own file and all others in the folder, overwritten.
        (SECRETS + SCENES + 'state_file = "box.toml"\n', "device[1].state_file"),
        (SECRETS + SCENES + 'state_file = "q.db.remote"\n', "device[1].state_file"),
        (SECRETS + SCENES.replace('"scenes"\nsites', '"/var/lib"\nsites'), "device[1].folder"),
        # Files without an end.
        (SECRETS + 'calibration = ["/dev/zero"]\n', "device[0].calibration[0]"),
        (SECRETS + WEATHER + 'profile_file = "/dev/zero"\n', "device[1].profile_file"),
    ],
)
def test_no_file_can_be_named_for_what_it_is_not_meant_for(write: Write, content: str, where: str) -> None:
    assert mistakes(write(SECRETS), content) == [where]


def test_hosts_and_files_that_cannot_be_are_told(local: BoxConfig) -> None:
    for host in ("a" * 64, "a..b", "." + "a" * 90_000):
        assert mistakes(local, LOCAL.replace("127.0.0.1", host, 1)) == ["mqtt.host"]
        assert mistakes(local, LOCAL + RADAR.replace("127.0.0.1", host)) == ["device[1].line"]
    assert mistakes(local, LOCAL.replace("/run/keys/mqtt", "\\u0000")) == ["mqtt.password_file"]


def test_a_file_that_the_own_file_names_can_be_named_for_the_same(write: Write) -> None:
    elsewhere = (
        SECRETS + SCENES.replace('"scenes"\nsites', '"/var/lib"\nsites') + 'state_file = "/run/state"\n'
    )
    local = write(elsewhere)
    assert len(from_afar(local, elsewhere + DUST.replace("dust", "dust2")).devices) == 3


@pytest.mark.parametrize("text", ["", "[", "x" * 1000, "[[box]]", 'device = "a"', "a." * 48_000 + "b = 1"])
def test_any_text_is_told_its_mistakes(local: BoxConfig, text: str) -> None:
    assert mistakes(local, text)


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=200)
@given(
    at=st.integers(0, len(LOCAL)), cut=st.integers(0, 20), put=st.text(max_size=20) | st.sampled_from(PIECES)
)
def test_any_change_of_a_text_is_a_configuration_or_told_its_mistakes(
    local: BoxConfig, at: int, cut: int, put: str
) -> None:
    with contextlib.suppress(ConfigError):  # nothing else is raised
        config = from_afar(local, LOCAL[:at] + put + LOCAL[at + cut :])
        assert (config.box.id, config.spool, config.remote) == (local.box.id, local.spool, local.remote)


def test_a_box_at_work_takes_no_other_disk_over(local: BoxConfig, write: Write) -> None:
    assert [m.where for m in needs_restart(local, write(LOCAL.replace("q.db", "r.db")))] == ["spool.path"]
    assert needs_restart(local, write(LOCAL + WEATHER)) == []


# --- what it changes ---


def test_nothing_changes_by_a_comment(local: BoxConfig) -> None:
    assert difference(local, from_afar(local, LOCAL + "# as it was\n")).summary == []


def test_what_vanishes_appears_and_loads_a_line_is_said(write: Write) -> None:
    before = write(LOCAL + WEATHER)
    faster = WEATHER.replace('"rtu"', '"rtu"\ninterval_s = 0.5')
    after = write(LOCAL.replace(DUST, "").replace("1883", "1884") + faster)
    change = difference(before, after)
    assert (change.devices_removed, change.devices_added, change.devices_changed) == (
        ["dust"],
        [],
        ["weather"],
    )
    assert {(c.device, c.change) for c in change.fields} == {("dust", "vanishes")}
    (bus,) = change.buses
    assert bus.before is not None
    assert bus.after == pytest.approx(2 * bus.before, abs=1e-3)
    assert change.settings == ["mqtt.port"]
    assert change.summary == [
        f"{len(change.fields)} fields vanish",
        "1 device removed: dust",
        "1 device changed: weather",
        f"bus load {bus.before:+.0%} on {LINE} ({bus.before:.0%} to {bus.after:.0%})",
        "settings changed: mqtt.port",
    ]


def test_a_line_that_would_be_too_full_is_said(write: Write) -> None:
    before = write(LOCAL)
    change = difference(before, write(LOCAL + WEATHER.replace('"rtu"', '"rtu"\ninterval_s = 0.01')))
    assert [bus.fits for bus in change.buses] == [False]
    assert "DOES NOT FIT" in change.summary[-1]


def test_a_field_whose_unit_changes_is_said(local: BoxConfig) -> None:
    (device,) = local.devices
    streams = tuple(
        dataclasses.replace(
            stream, fields=(dataclasses.replace(stream.fields[0], unit="mg/m3"), *stream.fields[1:])
        )
        for stream in device.treatment.streams
    )
    treatment = dataclasses.replace(device.treatment, streams=streams)
    after = dataclasses.replace(local, devices=(dataclasses.replace(device, treatment=treatment),))
    (field,) = difference(local, after).fields
    assert (field.change, field.after) == ("changes", "mg/m3 float")
    assert "1 field changes its unit or type" in difference(local, after).summary


# --- which one a box begins with ---


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return record.path_beside(tmp_path / "q.db")


GOOD = LOCAL + WEATHER
WANTED = Desired(hash=content_hash(GOOD), content=GOOD)


def test_a_box_that_was_told_nothing_runs_its_own_file(local: BoxConfig, path: Path) -> None:
    start = Keeper(local, path).begin()
    assert start.config is local
    assert (start.reported.state, start.reported.source) == ("running", "local")
    assert start.reported.running == content_hash(LOCAL)
    assert not path.exists()


def test_what_proved_itself_runs_after_the_next_start(local: BoxConfig, path: Path) -> None:
    keeper = Keeper(local, path)
    keeper.put_on_trial(WANTED)
    keeper.confirm()
    start = Keeper(local, path).begin()
    assert [device.name for device in start.config.devices] == ["dust", "weather"]
    assert (start.reported.state, start.reported.source) == ("running", "remote")
    assert start.reported.running == start.reported.desired == WANTED.hash


def test_what_was_on_trial_when_the_box_stopped_is_given_up_and_said(local: BoxConfig, path: Path) -> None:
    Keeper(local, path).put_on_trial(WANTED)
    for _ in range(2):  # and it stays so
        start = Keeper(local, path).begin()
        assert start.config is local
        assert (start.reported.state, start.reported.desired) == ("rolled_back", WANTED.hash)
        assert "stopped before" in start.reported.reason


def test_the_last_good_one_outlives_a_trial(local: BoxConfig, path: Path) -> None:
    keeper = Keeper(local, path)
    keeper.put_on_trial(WANTED)
    keeper.confirm()
    keeper.put_on_trial(Desired(hash=content_hash(LOCAL + "#"), content=LOCAL + "#"))
    start = Keeper(local, path).begin()
    assert start.reported.running == WANTED.hash
    assert (start.reported.state, start.reported.desired) == ("rolled_back", content_hash(LOCAL + "#"))


def test_the_deployers_file_wins_when_it_changed(local: BoxConfig, path: Path, write: Write) -> None:
    keeper = Keeper(local, path)
    keeper.put_on_trial(WANTED)
    keeper.confirm()
    changed = write(LOCAL + "# by hand\n")
    for _ in range(2):
        start = Keeper(changed, path).begin()
        assert start.config is changed
        assert (start.reported.state, start.reported.source) == ("superseded", "local")
        assert start.reported.desired == WANTED.hash
        assert "own file changed" in start.reported.reason


def test_what_no_longer_checks_gives_way_to_the_boxs_own_file(local: BoxConfig, path: Path) -> None:
    broken = LOCAL.replace("plantower", "no-longer-there")
    keeper = Keeper(local, path)
    keeper.put_on_trial(Desired(hash=content_hash(broken), content=broken))
    keeper.confirm()
    start = Keeper(local, path).begin()
    assert start.config is local
    assert (start.reported.state, start.reported.running) == ("rolled_back", content_hash(LOCAL))
    assert [mistake.where for mistake in start.reported.mistakes] == ["device[0].driver"]


@pytest.mark.parametrize("at", [0, 40, 70, 400])
def test_a_damaged_record_is_put_aside_and_the_boxs_own_file_runs(
    local: BoxConfig, path: Path, at: int
) -> None:
    Keeper(local, path).put_on_trial(WANTED)
    data = bytearray(path.read_bytes())
    data[at] ^= 1
    path.write_bytes(data)
    start = Keeper(local, path).begin()
    assert start.config is local
    assert "checksum" in start.reported.reason
    assert path.with_name(path.name + ".damaged").read_bytes() == data
    assert not path.exists()


def test_a_cut_while_the_record_is_written_leaves_the_one_before(local: BoxConfig, path: Path) -> None:
    keeper = Keeper(local, path)
    keeper.put_on_trial(WANTED)
    keeper.confirm()
    path.with_name(path.name + ".new").write_bytes(b"half of")
    assert Keeper(local, path).begin().reported.running == WANTED.hash


def test_a_disk_that_fails_leaves_everything_as_it_was(local: BoxConfig, tmp_path: Path) -> None:
    keeper = Keeper(local, tmp_path / "gone" / "q.db.remote")
    with pytest.raises(OSError, match="gone"):
        keeper.put_on_trial(WANTED)
    assert keeper.tried is None


def test_a_record_of_another_form_is_damaged(path: Path) -> None:
    path.write_bytes(b"")
    with pytest.raises(RemoteError, match="damaged"):
        record.load(path)
    assert record.load(path) is None


# --- what the deployer sees ---


def test_the_deployer_sees_whether_his_file_is_what_runs(local: BoxConfig, path: Path, write: Write) -> None:
    def seen(*options: str) -> tuple[int, str]:
        result = CliRunner().invoke(commands.app, ["config", str(local.path), *options])
        return result.exit_code, result.stdout

    assert seen() == (0, f"{local.path}: this file counts\n")
    keeper = Keeper(local, path)
    keeper.put_on_trial(WANTED)
    keeper.roll_back("dust: no answer")
    code, said = seen()
    assert code == 0
    assert "rolled back at" in said
    assert "dust: no answer" in said
    keeper.put_on_trial(WANTED)
    keeper.confirm()
    assert seen() == (1, f"{local.path}: one from afar counts, {WANTED.hash[:16]}, until this file changes\n")
    assert seen("--show") == (1, GOOD)
    code, told = seen("--json")
    assert json.loads(told)["running"] == WANTED.hash
    checked = CliRunner().invoke(commands.app, ["check", str(local.path)])
    assert "not this file, see `trisense edge config`" in checked.stderr
    write(LOCAL + "# by hand\n")
    assert seen() == (0, f"{local.path}: this file counts\n")


@pytest.mark.parametrize(
    ("mqtt", "remote", "expected"),
    [
        ('host = "10.0.0.1"', "", "closed"),
        ('host = "127.0.0.1.example.org"', "", "closed"),
        ('host = "10.0.0.1"', "commands = []", "closed"),
        ('host = "10.0.0.1"', "commands = []\nconfig = false", "unused"),
        ('host = "10.0.0.1"', "over_plain = true", "open"),
        ('host = "10.0.0.1"\ntls = true', "", "guarded"),
        ('host = "10.0.0.1"\nca_file = "ca.crt"', "over_plain = true", "guarded"),
        ('host = "127.0.0.1"', "", "guarded"),
        ('host = "localhost"', "", "guarded"),
        ('host = "::1"', "over_plain = true", "guarded"),
    ],
)
def test_a_broker_that_proves_nothing_is_not_obeyed_unless_it_is_wanted_so(
    write: Write, mqtt: str, remote: str, expected: str
) -> None:
    local = write(f"{BOX}[mqtt]\n{mqtt}\nport = 1883\n[remote]\n{remote}\n{DUST}")
    assert door(local) == expected
    checked = CliRunner().invoke(commands.app, ["check", str(local.path)])
    assert ("nothing from afar is taken" in checked.stderr) is (expected == "closed")
    assert ("whoever reaches the broker may command" in checked.stderr) is (expected == "open")


def test_a_configuration_after_which_nothing_more_could_come_is_refused(write: Write) -> None:
    local = write(LOCAL)
    away = LOCAL.replace("127.0.0.1", "broker.example.net", 1)
    assert mistakes(local, away) == ["mqtt"]
    assert from_afar(local, away.replace("port = 1883", "port = 8883\ntls = true")).mqtt.encrypted
    both_ways = LOCAL + "[remote]\nover_plain = true\n"
    local = write(both_ways)
    assert not from_afar(local, both_ways.replace("127.0.0.1", "broker.example.net", 1)).mqtt.local
