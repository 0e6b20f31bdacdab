"""A device's table, its certificates and its tests: every mistake at once, and what comes out."""

from __future__ import annotations

import json
import tomllib
from pathlib import Path

import pytest
from structlog.testing import capture_logs
from trisense.core.errors import ConfigError
from trisense.core.model import ClockState, Value
from trisense.drivers import Observed
from trisense.edge.clocks.clock import Stamp
from trisense.edge.commands import calibration_report, checking
from trisense.edge.config import BoxConfig, Device, load
from trisense.edge.sending.birth import BirthMaker
from trisense.edge.sensing.calibration import Certificate
from trisense.edge.sensing.ordinals import Ordinals
from trisense.edge.sensing.quality import QualityTable
from trisense.edge.sensing.stamping import Stamper
from trisense.edge.sensing.treatment import ValuesTable

HEAD = """
[box]
id = "kx-001"
site = "kx"
[mqtt]
host = "127.0.0.1"
port = 1883
[[device]]
name = "dust"
driver = "plantower"
line = "serial:///dev/ttyUSB0?baud=9600"
"""
CERTIFICATE = """
device = "dust"
field = "pm2_5"
unit = "ug/m3"
polynomial = [0.5, 1.5]
range = [0, 500]
valid_from = 2026-01-01T00:00:00Z
valid_to = 2026-07-01T00:00:00Z
by = "a laboratory"
uncertainty = 4.0
version = "one"
"""
T0_NS = 1_780_000_000_000_000_000
"""2026-05-28, when the tests' clock stands."""
DEPLOY = Path(__file__).parents[3] / "deploy"


def loaded(tmp_path: Path, table: str = "", **certificates: str) -> BoxConfig:
    for name, text in certificates.items():
        (tmp_path / f"{name}.toml").write_text(text)
    file = tmp_path / "box.toml"
    file.write_text(HEAD + table)
    return load(file)


def mistakes(tmp_path: Path, table: str, **certificates: str) -> dict[str, tuple[str, str]]:
    with pytest.raises(ConfigError) as caught:
        loaded(tmp_path, table, **certificates)
    return {m.where: (m.expected, m.got) for m in caught.value.mistakes}


def cells(
    device: Device, stamper: Stamper, time_ns: int = T0_NS, **values: Value
) -> dict[str, tuple[Value, int]]:
    """Stamp one row that has ``values`` only; what is not missing of it."""
    measurement = device.streams[0].measurement
    ((_, sample),) = stamper.stamp([Observed(measurement, values)], Stamp(time_ns, ClockState()))
    codes = dict(sample.quality)
    return {
        field.name: (value, codes.get(index, 1))
        for index, (field, value) in enumerate(zip(sample.stream.fields, sample.values, strict=True))
        if codes.get(index) != 9
    }


def test_a_device_without_any_of_it_sends_its_drivers_streams(tmp_path: Path) -> None:
    (device,) = loaded(tmp_path).devices
    assert device.streams == device.driver.streams()


def test_values_are_calibrated_before_they_are_tested_and_the_raw_one_is_kept(
    tmp_path: Path,
) -> None:
    config = loaded(
        tmp_path,
        'calibration = ["one.toml"]\nkeep_raw = true\n'
        "[device.quality.pm2_5]\nsuspect = [0, 100]\nsentinels = [999]\n",
        one=CERTIFICATE,
    )
    (device,) = config.devices
    told: list[Observed] = []
    stamper = Stamper(device.treatment, lambda _: Ordinals(), told.append)
    assert cells(device, stamper, pm2_5=10.01, pm10=20.0) == {
        "pm2_5": (15.5, 1),
        "pm10": (20.0, 1),
        "pm2_5_raw": (10.01, 1),
    }
    assert cells(device, stamper, pm2_5=70.0)["pm2_5"] == (105.5, 3)
    assert cells(device, stamper, pm2_5=501.0)["pm2_5"] == (750.5, 4)
    assert cells(device, stamper, pm2_5=999.0) == {}
    ((row),) = told
    assert row.values["version"] == "one"
    assert row.values["field"] == f"{device.streams[0].measurement}.pm2_5"
    assert row.values["state"] == "valid"
    flags = stamper.flags()[f"{device.streams[0].measurement}.pm2_5"]
    assert flags == {"missing": 1, "range": 2, "calibration_range": 1}


def test_an_expired_certificate_still_counts_but_is_suspect_and_told_once(tmp_path: Path) -> None:
    config = loaded(tmp_path, 'calibration = ["one.toml"]\n', one=CERTIFICATE)
    (device,) = config.devices
    told: list[Observed] = []
    stamper = Stamper(device.treatment, lambda _: Ordinals(), told.append)
    with capture_logs() as logs:
        for days in (0, 60, 61, 62):
            value = cells(device, stamper, T0_NS + days * 86_400 * 1_000_000_000, pm2_5=10.0)["pm2_5"]
            assert value == (15.5, 3 if days else 1)
    assert [row.values["state"] for row in told] == ["valid", "expired"]
    assert [e["event"] for e in logs if e["log_level"] == "warning"] == [
        "calibration_expired",
        "quality_flagged",
    ]


def test_the_birth_tells_by_what_values_are_made(tmp_path: Path) -> None:
    config = loaded(tmp_path, 'calibration = ["one.toml"]\n', one=CERTIFICATE)
    maker = BirthMaker(config)
    assert '"version":"one"' in maker.payload([])
    (device,) = config.devices
    (known,) = [c for c in device.treatment.columns[device.streams[0].measurement] if c.calibration]
    assert known.field.resolution == 0.1
    assert known.certificates[0].hash in maker.payload([])


def test_another_certificate_is_another_device(tmp_path: Path) -> None:
    table = 'calibration = ["one.toml"]\n'
    (one,) = loaded(tmp_path, table, one=CERTIFICATE).devices
    (same,) = loaded(tmp_path, table, one="# said again\n" + CERTIFICATE).devices
    (other,) = loaded(tmp_path, table, one=CERTIFICATE.replace("1.5", "1.6")).devices
    (tested,) = loaded(tmp_path, table + "[device.quality.pm10]\nspike = 5\n", one=CERTIFICATE).devices
    assert one.alike(same)
    assert not one.alike(other)
    assert not one.alike(tested)


def test_a_certificate_may_change_the_unit_and_the_drivers_range_goes_with_it(tmp_path: Path) -> None:
    (device,) = loaded(
        tmp_path,
        'calibration = ["one.toml"]\n',
        one=CERTIFICATE.replace('unit = "ug/m3"', 'unit = "mg/m3"\nraw_unit = "ug/m3"'),
    ).devices
    (column,) = (c for _, c, _ in device.treatment.calibrated())
    assert (column.field.unit, column.field.valid, column.field.resolution) == ("mg/m3", None, 0.1)


def test_the_qualified_name_wins_over_the_plain_one(tmp_path: Path) -> None:
    (device,) = loaded(tmp_path).devices
    name = device.streams[0].measurement
    (device,) = loaded(
        tmp_path,
        f'[device.quality."{name}.pm10"]\nspike = 7\n[device.quality.pm10]\nspike = 5\n',
    ).devices
    (column,) = [c for c in device.treatment.columns[name] if c.source == "pm10"]
    assert column.tests is not None
    assert column.tests.spike == 7


def test_all_mistakes_of_tests_and_certificates_come_at_once(tmp_path: Path) -> None:
    found = mistakes(
        tmp_path,
        'calibration = ["one.toml", "two.toml", "three.toml", "none.toml"]\nserial = "SN-1"\n'
        "[device.quality.pm25]\nspike = 1\n[device.quality.pm10]\nspyke = 1\n",
        one=CERTIFICATE,
        two=CERTIFICATE.replace('"dust"', '"SN-2"')
        .replace("2026-01-01", "2026-06-30")
        .replace("2026-07-01", "2027-07-01"),
        three=CERTIFICATE.replace("0, 500", "500, 0").replace("uncertainty", "uncertain"),
    )
    assert found.keys() == {
        "device[0].quality.pm10.spyke",
        "device[0].calibration[2] three.toml: uncertainty",
        "device[0].calibration[2] three.toml: uncertain",
        "device[0].calibration[1] two.toml: device",
        "device[0].calibration[1] two.toml: valid_from",
        'device[0].quality."pm25"',
        "device[0].calibration[3] none.toml: file",
    }


def test_what_does_not_fit_the_device_is_named(tmp_path: Path) -> None:
    (device,) = loaded(tmp_path).devices
    name = device.streams[0].measurement
    found = mistakes(
        tmp_path,
        'calibration = ["one.toml", "two.toml", "three.toml"]\nserial = "SN-1"\n'
        "[device.quality.pm25]\nspike = 1\n",
        one=CERTIFICATE.replace('"dust"', '"SN-1"'),
        two=CERTIFICATE.replace('"dust"', '"SN-2"')
        .replace("2026-01-01", "2026-06-30")
        .replace("2026-07-01", "2027-07-01"),
        three=CERTIFICATE.replace("pm2_5", f"{name}.pm10").replace("ug/m3", "mg/m3"),
    )
    assert found.keys() == {
        'device[0].quality."pm25"',
        "device[0].calibration[1] two.toml: device",
        "device[0].calibration[1] two.toml: valid_from",
        "device[0].calibration[2] three.toml: raw_unit",
    }
    assert found["device[0].calibration[1] two.toml: device"] == ("'dust' or 'SN-1'", "'SN-2'")
    assert "'one'" in found["device[0].calibration[1] two.toml: valid_from"][0]


def test_raw_values_are_kept_of_what_is_calibrated_only(tmp_path: Path) -> None:
    assert mistakes(tmp_path, "keep_raw = true\n").keys() == {"device[0].keep_raw"}


def test_the_samples_name_every_option(tmp_path: Path) -> None:
    lines = (DEPLOY / "edge.sample.toml").read_text().splitlines()
    tests = tomllib.loads("\n".join(line.removeprefix("#   ") for line in lines if line.startswith("#   ")))
    (table,) = tests["device"]["quality"].values()
    assert table.keys() == QualityTable.model_fields.keys()
    assert QualityTable.model_validate(table).eps == QualityTable().eps
    commented = {line[2:].split(" = ")[0] for line in lines if line.startswith("# ") and " = " in line}
    assert commented >= ValuesTable.model_fields.keys() - {"quality"}

    text = (DEPLOY / "calibration.sample.toml").read_text()
    known = {line.removeprefix("# ").split(" = ")[0] for line in text.splitlines() if " = " in line}
    assert known >= Certificate.model_fields.keys()
    config = loaded(
        tmp_path,
        'calibration = ["sample.toml"]\n',
        sample=text.replace('"weather"', '"dust"').replace("air_temperature", "pm10").replace("Cel", "ug/m3"),
    )
    (used,) = calibration_report.in_use(config, T0_NS)
    assert (used["version"], used["state"]) == ("T-2026-0113", "valid")
    assert json.loads(checking.as_json(config, None))["calibration"][0]["version"] == "T-2026-0113"


def test_check_names_holes_and_what_runs_out(tmp_path: Path) -> None:
    config = loaded(
        tmp_path,
        'calibration = ["one.toml", "two.toml"]\n',
        one=CERTIFICATE,
        two=CERTIFICATE.replace("2026-01-01", "2026-07-05").replace("2026-07-01", "2026-08-01"),
    )
    hole, end = calibration_report.warnings(config, T0_NS + 50 * 86_400 * 1_000_000_000)
    assert (hole.got, end.got) == ("2026-07-05 00:00+00:00", "'one', to 2026-08-01 00:00+00:00")
    assert len(list(calibration_report.warnings(config, T0_NS))) == 1
