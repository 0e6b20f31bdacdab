"""``trisense edge doctor``: what is wrong with disk, clock, ports and way to the broker, and what to do."""

from __future__ import annotations

import fcntl
import grp
import json
import os
import pwd
import shutil
import socket
import subprocess
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from trisense.core.errors import ConfigError
from trisense.core.messages import GatewayState
from trisense.core.model import ClockState
from trisense.drivers import ports
from trisense.edge.clocks.clock import SystemClock
from trisense.edge.commands.edge import app
from trisense.edge.config import load
from trisense.edge.doctor import broker as way
from trisense.edge.doctor import disk, machine, mqtt, portcheck, timekeeping
from trisense.edge.doctor.certificates import certificates_in, parse
from trisense.edge.doctor.command import patient_of
from trisense.edge.doctor.examine import examine
from trisense.edge.doctor.model import Check, Finding, Patient, Verdict
from typer.testing import CliRunner

from tests.servers import free_port
from tests.usb import Usb, usb_at

CERTIFICATES = Path(__file__).parents[3] / "deploy/mosquitto/certificates.sh"


def configure(
    folder: Path, *, mqtt: str = 'host = "127.0.0.1"\nport = 1', spool: str = "", line: str = ""
) -> Path:
    file = folder / "box.toml"
    line = line or "tcp://127.0.0.1:1"
    file.write_text(
        f'[box]\nid = "kx-001"\nsite = "kx"\n[mqtt]\n{mqtt}\n[spool]\n{spool}\n'
        f'[[device]]\nname = "dust"\ndriver = "plantower"\nline = "{line}"\n'
    )
    return file


@pytest.fixture
def patient(tmp_path: Path) -> Patient:
    """A box whose machine shows nothing."""
    return Patient(load(configure(tmp_path)), root=tmp_path / "root")


def tell(root: Path, file: str, text: str) -> None:
    path = root / file
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)


def only(check: Check, patient: Patient) -> Finding:
    (finding,) = check(patient)
    return finding


def verdicts(findings: Sequence[Finding] | Iterator[Finding]) -> dict[str, str]:
    return {finding.name: finding.verdict.value for finding in findings}


# --- the command --------------------------------------------------------------------------------------


def test_the_doctor_says_what_it_measured_and_ends_with_1_when_something_is_wrong(tmp_path: Path) -> None:
    file = configure(tmp_path)
    answer = CliRunner().invoke(app, ["doctor", str(file), "--json"])
    assert answer.exit_code == 1, answer.output
    said = json.loads(answer.stdout)
    by_name = {check["name"]: check for check in said["checks"]}
    assert said["verdict"] == "bad"
    assert by_name["fsync"]["values"]["p99_ms"] >= by_name["fsync"]["values"]["p50_ms"] > 0
    assert by_name["connection"]["verdict"] == "bad"
    assert "refused" in by_name["connection"]["measured"]
    assert all(check["advice"] for check in said["checks"] if check["verdict"] != "ok")
    assert list(tmp_path.glob(".doctor*")) == []


def test_the_doctor_takes_no_lock_and_sees_that_a_box_holds_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = configure(tmp_path)
    assert not patient_of(file).occupied
    (tmp_path / "spool.db.lock").touch()
    assert not patient_of(file).occupied
    with (tmp_path / "spool.db.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        monkeypatch.setattr(os, "getpid", lambda: 1)  # its own process does not count
        assert patient_of(file).occupied


def test_a_mistake_in_the_file_is_told_as_such(tmp_path: Path) -> None:
    answer = CliRunner().invoke(app, ["doctor", str(configure(tmp_path, spool="max_bytes = 1"))])
    assert isinstance(answer.exception, ConfigError)


def test_a_check_that_hangs_or_fails_hides_no_other(patient: Patient) -> None:
    released = threading.Event()

    def hangs(_: Patient) -> Iterator[Finding]:
        yield Finding("first", Verdict.OK, "x")
        released.wait()

    def fails(_: Patient) -> Iterator[Finding]:
        raise ZeroDivisionError
        yield

    def works(_: Patient) -> Iterator[Finding]:
        yield Finding("last", Verdict.OK, "x")

    found = list(examine(patient, {"hangs": hangs, "fails": fails, "works": works}, limit_s=0.05))
    released.set()
    assert verdicts(found) == {"first": "ok", "hangs": "bad", "fails": "warn", "last": "ok"}
    assert "ZeroDivisionError" in found[2].measured


# --- disk ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("mount", "verdict", "words"),
    [
        ("rw,noatime - ext4 /dev/mmcblk0p2 rw", "ok", ""),
        ("rw,relatime - ext4 /dev/mmcblk0p2 rw", "ok", "noatime"),
        ("rw,noatime - ext4 /dev/mmcblk0p2 rw,nobarrier", "bad", "barriers"),
        ("rw - tmpfs tmpfs rw", "bad", "forgets everything"),
        ("rw - overlay overlay rw", "bad", "forgets everything"),
        ("rw - vfat /dev/sda1 rw", "warn", "no journal"),
        ("rw - fuse.sshfs x rw", "warn", "no journal"),
    ],
)
def test_the_kind_of_file_system_and_its_mount_are_judged(
    patient: Patient, tmp_path: Path, mount: str, verdict: str, words: str
) -> None:
    table = f"1 0 8:1 / / rw - ext4 /dev/sda1 rw\n2 1 179:2 / {tmp_path} {mount}\n"
    tell(patient.root, "proc/self/mountinfo", table)
    finding = only(disk.check_file_system, patient)
    assert finding.verdict == verdict
    assert words in finding.advice
    assert finding.values["mounted_at"] == str(tmp_path)


def test_the_mount_that_lies_deepest_counts(tmp_path: Path) -> None:
    table = "1 0 8:1 / / rw - ext4 a rw\n2 1 8:2 / /var rw - xfs b rw\n3 1 8:3 / /va rw - tmpfs c rw\n"
    table += "4 1 8:4 / /var/a\\040b rw - f2fs d rw\n"
    tell(tmp_path, "proc/self/mountinfo", table)
    kinds = [disk.mount_of(Path(p), tmp_path) for p in ("/var/x", "/val", "/var/a b/c")]
    assert [mount.kind for mount in kinds if mount is not None] == ["xfs", "ext4", "f2fs"]


@pytest.mark.parametrize(
    ("took_ms", "card", "expected"),
    [
        ([2.0] * 99 + [40.0], True, ("ok", "")),
        ([0.01] * 100, False, ("warn", "safe too early")),
        ([0.1] * 100, False, ("ok", "")),
        ([0.1] * 100, True, ("warn", "safe too early")),
        ([5.0] * 90 + [600.0] * 10, True, ("warn", "half of")),
        ([5.0] * 90 + [1500.0] * 10, True, ("bad", "commit_s = 3")),
    ],
)
def test_a_disk_that_is_too_fast_or_too_slow_is_told_with_what_it_means(
    patient: Patient,
    monkeypatch: pytest.MonkeyPatch,
    took_ms: list[float],
    card: bool,
    expected: tuple[str, str],
) -> None:
    tmp_path = patient.config.spool.path.parent
    tell(patient.root, "proc/self/mountinfo", f"1 0 179:2 / {tmp_path} rw - ext4 a rw\n")
    device = patient.root / "sys/devices/mmcblk0p2" if card else patient.root / "sys/devices/sda1"
    device.mkdir(parents=True)
    (patient.root / "sys/dev/block").mkdir(parents=True)
    (patient.root / "sys/dev/block/179:2").symlink_to(device)
    monkeypatch.setattr(disk, "_sync_times_ms", lambda _: iter(took_ms))
    finding = only(disk.check_fsync, patient)
    assert finding.verdict == expected[0]
    assert expected[1] in finding.advice


def test_room_counts_what_the_spool_has_already(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    patient = Patient(load(configure(tmp_path, spool="max_bytes = 104857600")))
    (tmp_path / "spool.db").write_bytes(b"x" * (1 << 20))
    free = {"bytes": 200 << 20}

    class Stat:
        f_frsize = 4096

        @property
        def f_bavail(self) -> int:
            return free["bytes"] // 4096

    monkeypatch.setattr(os, "statvfs", lambda _: Stat())
    assert only(disk.check_room, patient).verdict == "ok"
    free["bytes"] = 50 << 20
    finding = only(disk.check_room, patient)
    assert finding.verdict == "warn"
    assert f"max_bytes = {43 << 20}" in finding.advice
    free["bytes"] = 4 << 20
    assert only(disk.check_room, patient).verdict == "bad"


def test_a_folder_that_is_not_there_is_told_once(tmp_path: Path) -> None:
    patient = Patient(load(configure(tmp_path, spool='path = "none/spool.db"')))
    checks: dict[str, Check] = {"a": disk.check_file_system, "b": disk.check_fsync, "c": disk.check_room}
    assert verdicts(examine(patient, checks)) == {"spool folder": "bad"}


# --- clock --------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("state", "daemon", "expected"),
    [
        (ClockState(True, 12), "chronyd", ("ok", "")),
        (ClockState(True, 900), "chronyd", ("warn", "nearer")),
        (ClockState(False), "systemd-timesyn", ("warn", "can it reach a server")),
        (ClockState(False), "sh", ("warn", "install chrony")),
    ],
)
def test_the_clock_is_judged_by_the_kernels_word_and_who_sets_it(
    patient: Patient,
    monkeypatch: pytest.MonkeyPatch,
    state: ClockState,
    daemon: str,
    expected: tuple[str, str],
) -> None:
    monkeypatch.setattr(SystemClock, "state", lambda _: state)
    tell(patient.root, "proc/17/comm", daemon + "\n")
    finding = only(timekeeping.check_clock, patient)
    assert finding.verdict == expected[0]
    assert expected[1] in finding.advice


def test_a_real_time_clock_is_missed_compared_and_believed(patient: Patient) -> None:
    assert only(timekeeping.check_rtc, patient).verdict == "warn"
    tell(patient.root, "sys/class/rtc/rtc0/since_epoch", "86400\n")
    assert "hwclock" in only(timekeeping.check_rtc, patient).advice
    tell(patient.root, "sys/class/rtc/rtc0/since_epoch", f"{int(time.time())}\n")
    assert only(timekeeping.check_rtc, patient).verdict == "ok"


# --- ports --------------------------------------------------------------------------------------------


@pytest.fixture
def usb(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Usb]:
    with usb_at(tmp_path / "machine") as made:
        monkeypatch.setattr(ports, "THIS", made.machine)
        yield made


def test_a_port_is_told_as_free_absent_or_badly_named(usb: Usb, tmp_path: Path) -> None:
    own = usb.plug("ttyUSB0", "1-1", serial="A10K")
    good = Patient(load(configure(tmp_path, line=f"serial://{own.by_id}")), root=tmp_path)
    assert verdicts(portcheck.check_ports(good)) == {"port of dust": "ok"}

    numbered = Patient(load(configure(tmp_path, line=f"serial://{usb.machine.dev}/ttyUSB0")), root=tmp_path)
    found = list(portcheck.check_ports(numbered))
    assert verdicts(found) == {"port of dust": "ok", "port name": "warn"}
    assert found[1].advice == f"name it serial://{own.by_id}"

    absent = Patient(load(configure(tmp_path, line=f"serial://{usb.machine.dev}/ttyUSB9")), root=tmp_path)
    finding = next(portcheck.check_ports(absent))
    assert finding.verdict == "bad"
    assert str(own.by_id) in finding.measured


def test_equal_adapters_and_programs_that_take_ports_are_told(usb: Usb, patient: Patient) -> None:
    usb.plug("ttyUSB0", "1-1")
    usb.plug("ttyUSB1", "1-2")
    assert verdicts(portcheck.check_ports(patient)) == {"equal adapters": "warn"}
    tell(patient.root, "proc/5/comm", "ModemManager\n")
    assert "disable --now ModemManager" in only(portcheck.check_meddlers, patient).advice


def test_who_holds_a_port_is_named(usb: Usb, tmp_path: Path) -> None:
    adapter = usb.plug("ttyUSB0", "1-1", serial="A")
    patient = Patient(load(configure(tmp_path, line=f"serial://{adapter.by_id}")), root=tmp_path)
    holder = subprocess.Popen(["sleep", "60"], stdin=os.open(adapter.slave_path, os.O_RDWR | os.O_NOCTTY))
    try:
        finding = next(portcheck.check_ports(patient))
    finally:
        holder.kill()
        holder.wait()
    assert finding.verdict == "bad"
    assert f"sleep ({holder.pid})" in finding.measured


def test_a_port_that_the_boxs_user_may_not_open_is_told_with_the_group(
    usb: Usb, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    adapter = usb.plug("ttyUSB0", "1-1", serial="A")
    Path(adapter.slave_path).chmod(0o660)
    patient = Patient(load(configure(tmp_path, line=f"serial://{adapter.by_id}")), root=tmp_path)
    monkeypatch.setattr(portcheck, "SERVICE_USER", "nobody")
    finding = next(portcheck.check_ports(patient))
    group = grp.getgrgid(Path(adapter.slave_path).stat().st_gid).gr_name
    assert finding.verdict == "bad"
    assert finding.advice == f"usermod --append --groups {group} nobody, then restart the service"
    monkeypatch.setattr(portcheck, "SERVICE_USER", pwd.getpwuid(0).pw_name)
    assert next(portcheck.check_ports(patient)).verdict == "ok"


# --- certificates and broker --------------------------------------------------------------------------


@pytest.fixture(scope="module")
def authority(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of certificates as the shipped script makes them, for a broker on loopback."""
    if shutil.which("openssl") is None:
        pytest.skip("openssl is not installed")
    folder = tmp_path_factory.mktemp("certificates")
    for arguments in (
        ("init", str(folder), "127.0.0.1"),
        ("box", str(folder), "kx-001"),
        ("box", str(folder), "other"),
    ):
        subprocess.run([str(CERTIFICATES), *arguments], check=True, capture_output=True)
    return folder


def test_a_certificate_is_read_without_a_library(authority: Path) -> None:
    (own,) = certificates_in(authority / "boxes/kx-001.crt")
    assert own.name == "kx-001"
    assert 1820 < own.days_left(datetime.now(UTC)) <= 1825
    assert own.not_before <= datetime.now(UTC)
    der = subprocess.run(
        ["openssl", "x509", "-in", str(authority / "boxes/kx-001.crt"), "-outform", "DER"],
        capture_output=True,
        check=True,
    ).stdout
    assert parse(der) == own
    for damaged in (b"", der[:100], der[:-1], b"\x30\x03\x02\x01\x01", bytes(len(der))):
        with pytest.raises(ValueError, match=r"."):
            parse(damaged)


def secured(authority: Path, port: int, *, name: str = "kx-001", host: str = "127.0.0.1") -> str:
    own = authority / "boxes" / name
    return (
        f'host = "{host}"\nport = {port}\nca_file = "{authority}/gateways-ca.crt"\n'
        f'cert_file = "{own}.crt"\nkey_file = "{own}.key"'
    )


def test_certificates_are_judged_by_name_and_time(
    authority: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    good = Patient(load(configure(tmp_path, mqtt=secured(authority, 8883))))
    assert verdicts(way.check_certificates(good)) == {"own certificate": "ok", "authority": "ok"}
    foreign = Patient(load(configure(tmp_path, mqtt=secured(authority, 8883, name="other"))))
    assert verdicts(way.check_certificates(foreign))["own name"] == "bad"

    for days, verdict, words in (
        (1810, "warn", "14 days left"),
        (1830, "bad", "-5 days left"),
        (-2, "bad", "valid from"),
    ):
        then = datetime.now(UTC) + timedelta(days=days)
        monkeypatch.setattr(way, "_now", lambda then=then: then)
        own = next(way.check_certificates(good))
        assert own.verdict == verdict
        assert words.split()[1] in own.measured
    missing = Patient(load(configure(tmp_path, mqtt=secured(authority, 8883, name="gone"))))
    assert verdicts(way.check_certificates(missing))["own certificate"] == "bad"


class SecureBroker:
    """A Mosquitto with mutual TLS and rights by name."""

    def __init__(self, program: str, folder: Path, authority: Path, rights: str) -> None:
        self.port = free_port()
        (folder / "acl").write_text(rights)
        (folder / "secure.conf").write_text(
            f"listener {self.port} 127.0.0.1\nallow_anonymous false\nuser root\n"
            f"cafile {authority}/boxes-ca.crt\n"
            f"certfile {authority}/broker.crt\nkeyfile {authority}/broker.key\n"
            f"require_certificate true\nuse_identity_as_username true\nacl_file {folder}/acl\n"
        )
        self.process = subprocess.Popen(
            [program, "-c", str(folder / "secure.conf")], stderr=subprocess.DEVNULL, stdout=subprocess.DEVNULL
        )
        while True:
            assert self.process.poll() is None
            try:
                socket.create_connection(("127.0.0.1", self.port), timeout=1).close()
                return
            except ConnectionRefusedError:
                continue

    def stop(self) -> None:
        self.process.terminate()
        self.process.wait()


@pytest.fixture
def secure(mosquitto: str, tmp_path: Path, authority: Path) -> Iterator[Callable[[str], SecureBroker]]:
    made = []

    def begin(rights: str) -> SecureBroker:
        made.append(SecureBroker(mosquitto, tmp_path, authority, rights))
        return made[-1]

    yield begin
    for broker in made:
        broker.stop()


@pytest.mark.peer
def test_the_way_to_a_broker_is_walked_to_its_certificate_and_the_rights_there(
    secure: Callable[[str], SecureBroker], authority: Path, tmp_path: Path
) -> None:
    broker = secure((CERTIFICATES.parent / "trisense.acl").read_text())
    patient = Patient(load(configure(tmp_path, mqtt=secured(authority, broker.port))))
    assert verdicts([*way.check_way(patient), *mqtt.check_mqtt(patient)]) == {
        "broker's name": "ok",
        "connection": "ok",
        "TLS": "ok",
        "broker's certificate": "ok",
        "MQTT": "ok",
        "may hear": "ok",
        "may speak": "ok",
        "gateway": "warn",
    }


@pytest.mark.peer
def test_a_broker_that_is_named_otherwise_or_gives_no_rights_is_told(
    secure: Callable[[str], SecureBroker], authority: Path, tmp_path: Path
) -> None:
    broker = secure("pattern read nothing/%u\n")
    patient = Patient(load(configure(tmp_path, mqtt=secured(authority, broker.port, host="localhost"))))
    tls = list(way.check_way(patient))[2]
    assert tls.verdict == "bad"
    assert "127.0.0.1" in tls.measured or "broker" in tls.measured

    patient = Patient(load(configure(tmp_path, mqtt=secured(authority, broker.port))))
    found = list(mqtt.check_mqtt(patient))
    assert verdicts(found) == {"MQTT": "ok", "may hear": "ok", "may speak": "bad", "gateway": "warn"}
    assert "Not authorized" in found[2].measured


@pytest.mark.peer
@pytest.mark.parametrize(
    ("remote", "said"),
    [
        ("", "commands and configurations from afar are refused"),
        ("over_plain = true", "lets whoever reaches the broker command this box"),
        ("commands = []\nconfig = false", "not used"),
    ],
)
def test_a_broker_without_tls_elsewhere_is_warned_of_with_what_it_means(
    broker: Any, tmp_path: Path, remote: str, said: str
) -> None:
    mqtt_table = f'host = "127.1"\nport = {broker.port}\n[remote]\n{remote}'  # here, and does not say so
    tls = list(way.check_way(Patient(load(configure(tmp_path, mqtt=mqtt_table)))))[-1]
    assert (tls.name, tls.verdict, tls.measured.endswith(said)) == ("TLS", "warn", True)


@pytest.mark.peer
def test_a_gateway_that_is_online_is_found(broker: Any, tmp_path: Path) -> None:
    state = GatewayState(online=True).model_dump_json()
    command = ["mosquitto_pub", "-p", str(broker.port), "-t", "tri/v1g/west/state", "-r", "-m", state]
    if shutil.which(command[0]) is None:
        pytest.skip("mosquitto_pub is not installed")
    subprocess.run(command, check=True)
    patient = Patient(load(configure(tmp_path, mqtt=f'host = "127.0.0.1"\nport = {broker.port}')))
    found = {finding.name: finding for finding in mqtt.check_mqtt(patient)}
    assert found["gateway"].measured == "online: west"


def test_the_connection_of_a_box_that_cannot_be_asked_is_not_disturbed(patient: Patient) -> None:
    assert "not tried" in only(mqtt.check_mqtt, replace(patient, occupied=True)).measured


# --- machine ------------------------------------------------------------------------------------------


def test_heat_memory_and_power_are_judged_by_what_the_kernel_shows(patient: Patient) -> None:
    root = patient.root
    assert list(machine.check_power(patient)) == []
    tell(root, "sys/class/thermal/thermal_zone0/temp", "85123\n")
    tell(root, "proc/meminfo", "MemTotal:  1000000 kB\nMemAvailable:  50000 kB\n")
    tell(root, "sys/devices/platform/soc/soc:firmware/get_throttled", "50000\n")
    assert only(machine.check_heat, patient).verdict == "bad"
    assert only(machine.check_memory, patient).verdict == "warn"
    power = only(machine.check_power, patient)
    assert (power.verdict, power.measured) == ("warn", "since power-on: too little voltage, throttled")
    tell(root, "sys/class/hwmon/hwmon1/in0_lcrit_alarm", "1\n")
    assert only(machine.check_power, patient).measured == "now: too little voltage"
    tell(root, "sys/class/thermal/thermal_zone0/temp", "40000\n")
    tell(root, "proc/meminfo", "MemTotal:  1000000 kB\nMemAvailable:  500000 kB\n")
    assert only(machine.check_heat, patient).verdict == "ok"
    assert only(machine.check_memory, patient).verdict == "ok"


def test_a_box_that_nobody_would_restart_is_told(patient: Patient) -> None:
    assert "no box runs" in only(machine.check_service, patient).measured
    for cgroup, unit in (
        ("0::/user.slice/session-1.scope", None),
        ("0::/system.slice/trisense-edge.service", "x"),
    ):
        tell(patient.root, "proc/17/cgroup", cgroup + "\n")
        assert (machine._unit(17, patient.root) is None) == (unit is None)
    assert only(machine.check_watchdog, patient).verdict == "warn"
