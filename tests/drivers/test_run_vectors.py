"""The vector runner: our own copies, the shared sheets, and that it does notice what is wrong."""

from __future__ import annotations

import importlib.util
import json
import sys
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

HERE = Path(__file__).parent
COPIES = HERE / "vectors"
SHARED = Path(__file__).resolve().parents[2] / ".." / "shared"
SUPPORTED = (
    *("modbus.generic", "ecowitt.ws90", "plantower.", "llrp", "epc", "ld2450", "image-health", "frame-pair"),
    *("jpeg", "adsb-", "geotiff-ndvi"),
    *("nova.", "sensirion.", "winsen.", "dfrobot.a02yyuw", "hydreon.", "davis."),
    *("vaisala.", "nmea0183.", "sdi12."),
    *("ti-mmwave", "ld2410", "ld2451", "ops243", "houston-dr500", "wavetronix-ss125", "rtms-g4"),
)
PMS = "424d001c00000008000800000008000800d20046002d001e00000000970002c5"


def _load() -> ModuleType:
    spec = importlib.util.spec_from_file_location("run_vectors", HERE / "run_vectors.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules["run_vectors"] = module  # dataclasses look their module up
    spec.loader.exec_module(module)
    return module


run_vectors = _load()


@pytest.fixture
def judge(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> Callable[..., tuple[int, str]]:
    """Run the runner over vectors given as dicts; its exit code and its last line."""

    def run(*vectors: Any) -> tuple[int, str]:
        file = tmp_path / "made.json"
        file.write_text(json.dumps(list(vectors)))
        code = run_vectors.main([str(file), "--root", str(tmp_path)])
        return code, capsys.readouterr().out.splitlines()[-1]

    return run


def pms(**changes: Any) -> dict[str, Any]:
    return {"id": "x", "device": "plantower.pmsx003", "kind": "valid", "hex": PMS, **changes}


def test_every_copied_vector_passes(capsys: pytest.CaptureFixture[str]) -> None:
    files = sorted(str(file) for file in COPIES.glob("*_vectors.json"))
    assert run_vectors.main(["--root", str(COPIES), *files]) == 0
    passed, failed, unsupported = (
        int(part.split()[0]) for part in capsys.readouterr().out.splitlines()[-1].split(", ")
    )
    assert (failed, unsupported) == (0, 0)
    assert passed >= 175


@pytest.mark.skipif(not SHARED.is_dir(), reason="the shared protocol sheets are not beside the checkout")
def test_every_shared_vector_of_a_supported_device_passes(capsys: pytest.CaptureFixture[str]) -> None:
    files = sorted(str(file) for file in (SHARED / "protocols").glob("*_vectors.json"))
    assert run_vectors.main(["--root", str(SHARED), *files]) == 0
    lines = [line for line in capsys.readouterr().out.splitlines() if line.startswith(SUPPORTED)]
    assert lines
    assert [line for line in lines if not line.endswith("0 failed, 0 unsupported")] == []


def test_a_good_vector_passes_and_extra_keys_in_the_frame_are_fine(judge: Any) -> None:
    assert judge(pms(expected={"values": {"pm2_5": 8}})) == (0, "1 passed, 0 failed, 0 unsupported")


@pytest.mark.parametrize(
    "expected",
    [
        {"values": {"pm2_5": 9}},
        {"values": {"pm2_5": None}},
        {"values": {"pm2_5": "8"}},
        {"values": {"pnc_gt_0_3um": 2.1005}},
        {"values": {"pm4": 8}},
        {"values": 8},
        {"version": 151, "error_code": 1},
        {"frames": [{"version": 151}, {"version": 151}]},
        {"frames": []},
        {"frames": ["no value of it"]},
        {},
        {"note": "only a word for people"},
        None,
    ],
)
def test_a_wrong_or_empty_expectation_fails(judge: Any, expected: Any) -> None:
    assert judge(pms(expected=expected)) == (1, "0 passed, 1 failed, 0 unsupported")


def test_floats_may_differ_by_a_ten_thousandth(judge: Any) -> None:
    assert judge(pms(expected={"values": {"pnc_gt_0_3um": 2.1001}}))[0] == 0


@pytest.mark.parametrize(
    ("vector", "code"),
    [
        (pms(kind="corrupt", expected={"error": "checksum"}), 1),
        (pms(kind="corrupt", expected={"version": 151}), 1),
        (pms(kind="corrupt", expected={"error": "checksum"}, hex=PMS[:-2] + "c6"), 0),
        (pms(kind="corrupt", expected={}, hex=PMS[:-2] + "c6"), 0),
        (pms(expected={"error": "checksum"}), 1),
        (pms(expected={"crc_ok": False}, hex=PMS[:-2] + "c6"), 0),
        (pms(expected={"values": {"pm2_5": 8}}, hex=PMS[:-2] + "c6"), 1),
    ],
)
def test_what_is_damaged_must_give_no_good_frame(judge: Any, vector: Any, code: int) -> None:
    assert judge(vector)[0] == code


def test_two_frames_where_one_is_expected_fail(judge: Any) -> None:
    assert judge(pms(hex=PMS + PMS, expected={"version": 151}))[0] == 1


def test_a_stream_gives_just_its_good_frames_in_order(judge: Any) -> None:
    zeros = "424d001c" + "00" * 24 + "97000142"
    wanted = [{"values": {"pm2_5": 8}}, {"values": {"pm2_5": 0}}]
    stream = pms(kind="stream", hex="ff42" + PMS + "424d00" + zeros, expected={"frames": wanted})
    assert judge(stream)[0] == 0
    assert judge({**stream, "expected": {"frames": wanted[::-1]}})[0] == 1


def test_a_command_passes_by_encoding_it_and_fails_with_other_bytes(judge: Any) -> None:
    wake = {"id": "t", "device": "plantower.pmsx003", "dir": "tx", "expected": {"command": "wake"}}
    assert judge({**wake, "hex": "424de400010174"})[0] == 0
    assert judge({**wake, "hex": "424de400000173"})[0] == 1
    assert judge({**wake, "hex": "424de400010174", "expected": {"command": "dance"}})[0] == 1


def test_a_device_without_decoder_is_unsupported_whatever_its_input(judge: Any) -> None:
    inputs = ["00", "no hex", "data/a_{B4,B5}.tif", ["00", {"a": 1}], {"dn": 5}, 7, None]
    vectors = [{"device": "nobody.knows", "hex_or_text": given, "expected": {}} for given in inputs]
    assert judge(*vectors) == (0, "0 passed, 0 failed, 7 unsupported")


@pytest.mark.parametrize(
    "given", ["zz", "424", "data/none.bin", "../../etc/passwd", 7, None, [None], {"dn": 5}, ""]
)
def test_input_that_cannot_be_read_fails_and_does_not_crash(judge: Any, given: Any) -> None:
    vector = {"device": "plantower.pmsx003", "hex_or_text": given, "expected": {"version": 151}}
    assert judge(vector) == (1, "0 passed, 1 failed, 0 unsupported")
    assert judge({"device": "plantower.pmsx003", "expected": {"version": 151}})[0] == 1


@pytest.mark.parametrize(
    "given",
    [
        PMS.upper(),
        PMS[:20] + " " + PMS[20:],
        [PMS[:20], PMS[20:]],
        {"hex": PMS},
        {"body_hex": PMS},
        "data/pms.bin",
    ],
)
def test_hex_lists_dicts_and_paths_below_the_root_are_read(judge: Any, given: Any, tmp_path: Path) -> None:
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "pms.bin").write_bytes(bytes.fromhex(PMS))
    vector = {"device": "plantower.pmsx003", "hex_or_text": given, "expected": {"version": 151}}
    assert judge(vector)[0] == 0


def test_text_goes_to_the_codec_as_it_is(judge: Any) -> None:
    avr = {
        "device": "adsb-avr",
        "hex_or_text": "*8D406B902015A678D4D220AA4BDA;",
        "expected": {"icao": "406B90"},
    }
    assert judge(avr)[0] == 0


def test_a_list_of_text_is_read_as_lines(judge: Any) -> None:
    times = "2008/11/28,14:53:50.594,2008/11/28,14:58:51.153"
    line = f"MSG,3,496,211,4CA2D6,10057,{times},,37000,,,51.4,-1.0,,,0,0,0,0"
    frames = [{"icao": "4CA2D6"}, {"icao": "4CA2D6"}]
    assert judge({"device": "adsb-sbs", "hex_or_text": [line, line], "expected": {"frames": frames}})[0] == 0


def test_a_codec_that_raises_is_a_failed_vector(
    judge: Any, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    class Broken:
        def frames(self, data: bytes) -> Any:  # noqa: ARG002  # it does not get so far
            raise ZeroDivisionError("inside")

    monkeypatch.setattr(run_vectors, "codecs", lambda: {"plantower.*": Broken()})
    assert judge(pms(expected={"version": 151})) == (1, "0 passed, 1 failed, 0 unsupported")


def test_each_device_has_a_line_and_failures_a_reason(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "made.json"
    wrong = pms(id="wrong", expected={"version": 1})
    file.write_text(json.dumps({"vectors": [pms(expected={"version": 151}), wrong]}))
    assert run_vectors.main([str(file)]) == 1
    printed = capsys.readouterr()
    assert printed.out.splitlines() == [
        "plantower.pmsx003: 1 passed, 1 failed, 0 unsupported",
        "1 passed, 1 failed, 0 unsupported",
    ]
    assert "wrong: failed: version: expected 1, got 151" in printed.err


@pytest.mark.parametrize("content", ["", "{}", "[1]", '[{"id": "a"}]', '{"vectors": 3}', "\x00"])
def test_a_file_that_holds_no_vectors_is_told_with_exit_code_2(
    tmp_path: Path, content: str, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "made.json"
    file.write_text(content)
    assert run_vectors.main([str(file)]) == 2
    assert str(file) in capsys.readouterr().err


def test_a_missing_file_is_told_with_exit_code_2(tmp_path: Path) -> None:
    assert run_vectors.main([str(tmp_path / "none.json")]) == 2
