"""What a deployer does to a spool by hand: look, check, mend, export, trim."""

from __future__ import annotations

import csv
import io
import json
import os
import sqlite3
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from trisense.core.messages import LOSS, EpochReceipt
from trisense.core.model import BatchClass
from trisense.edge.commands.spool import app
from trisense.edge.spool import Cut, Spool
from trisense.edge.spool.file import read_epochs
from typer.testing import CliRunner, Result

MakeSpool = Callable[..., Spool]
MakeCut = Callable[..., Cut]


def spool_command(*arguments: object) -> Result:
    return CliRunner().invoke(app, [str(argument) for argument in arguments])


def told(*arguments: object) -> Any:
    answer = spool_command(*arguments, "--json")
    return json.loads(answer.stdout)


@pytest.fixture
def filled(make_spool: MakeSpool, spool_path: Path, cut: MakeCut, clock: Any) -> tuple[Path, int]:
    """A closed spool: readings 0 to 5, 0 and 1 of them receipted, a preview, a picture, an open batch."""
    with make_spool() as spool:
        spool.commit([cut(n) for n in range(6)])
        spool.settle([EpochReceipt(spool.epoch, stored=((0, 1),))])
        clock.advance(10)
        spool.commit([replace(cut(6), preview=True), replace(cut(7), offset_ns=5)])
        spool.commit([cut(8, rows=1, batch_class=BatchClass.MEDIA, blob=b"\xff\xd8 a picture")])
        return spool_path, spool.epoch


def smash(path: Path, index: str = "identity") -> None:
    with sqlite3.connect(path) as db:
        (page,) = db.execute("SELECT rootpage FROM sqlite_schema WHERE name = ?", (index,)).fetchone()
    db.close()
    image = path.read_bytes()
    path.write_bytes(image[: (page - 1) * 4096] + bytes(4096) + image[page * 4096 :])


def test_ls_says_what_lies_there_by_epoch_class_and_state(filled: tuple[Path, int]) -> None:
    path, epoch = filled

    listing = told("ls", path)

    assert {(g["class"], g["state"]): (g["batches"], g["samples"]) for g in listing["batches"]} == {
        ("data", "stored"): (2, 6),
        ("data", "waiting"): (4, 12),
        ("preview", "waiting"): (1, 3),
        ("data", "open"): (1, 3),
        ("media", "waiting"): (1, 1),
    }
    (media,) = [g for g in listing["batches"] if g["class"] == "media"]
    assert media["size_bytes"] > len(b"\xff\xd8 a picture"), "rows and picture"
    assert {g["epoch"] for g in listing["batches"]} == {f"{epoch:016x}"}
    assert listing["epochs"][0]["next_seq"] == 9
    assert listing["horizon"] == "2026-05-28T20:26:40+00:00"
    text = spool_command("ls", path)
    assert text.exit_code == 0
    assert "can be replayed" in text.stdout
    assert f"{epoch:016x}" in text.stdout


def test_ls_and_fsck_work_beside_a_running_box(spool: Spool, spool_path: Path, cut: MakeCut) -> None:
    spool.commit([cut(n) for n in range(3)])
    assert told("ls", spool_path)["batches"][0]["batches"] == 3
    assert spool_command("fsck", spool_path).exit_code == 0
    spool.commit([cut(3)])
    assert spool._db.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchone()[0] == 0, "no snapshot is left open"


def test_the_configuration_names_the_spool_too(filled: tuple[Path, int], tmp_path: Path) -> None:
    config = tmp_path / "edge.toml"
    config.write_text('[spool]\npath = "spool.db"\n')
    assert told("ls", config)["path"] == str(filled[0])
    config.write_text("[spool]\nmax_bytes = 5\n")
    with pytest.raises(Exception, match=r"spool\.max_bytes: expected"):
        CliRunner().invoke(app, ["ls", str(config)], catch_exceptions=False)


def test_fsck_says_good_with_what_it_looked_at(filled: tuple[Path, int]) -> None:
    answer = told("fsck", filled[0])
    assert (answer["outcome"], answer["faults"]) == ("good", {})
    assert answer["checked"].keys() == {"log_frames", "pages", "streams", "epochs", "batches"}
    assert answer["checked"]["batches"] == 9


def test_fsck_finds_a_damaged_batch_and_repair_declares_it(
    filled: tuple[Path, int], make_spool: MakeSpool
) -> None:
    path, epoch = filled
    with sqlite3.connect(path) as db:
        db.execute("UPDATE batch SET rows = zeroblob(9) WHERE seq IN (0, 3)")
    db.close()

    look = spool_command("fsck", path)
    assert look.exit_code == 1
    assert f"{epoch:016x}/3" in look.stdout
    assert "--repair can mend it" in look.stdout
    assert spool_command("fsck", path).exit_code == 1, "looking changes nothing"

    mended = spool_command("fsck", path, "--repair")
    assert (mended.exit_code, "2 damaged batches declared lost" in mended.stdout) == (1, True)
    assert spool_command("fsck", path).exit_code == 0
    assert not path.with_name("spool.db.damaged").exists(), "mended in place"
    with make_spool() as spool:
        alarms = [b for _, b in spool.load(h.id for h in spool.heads(BatchClass.ALARM))]
        assert sorted(s.values[1:3] for b in alarms for s in b.samples if s.stream == LOSS) == [
            (0, 0),
            (3, 3),
        ]


@pytest.mark.parametrize("index", ["identity", "waiting", "kept"])
def test_fsck_repairs_a_damaged_structure_and_loses_nothing(filled: tuple[Path, int], index: str) -> None:
    path, _ = filled
    before = told("ls", path)["batches"]
    smash(path, index)

    assert spool_command("fsck", path).exit_code == 1
    assert spool_command("fsck", path, "--repair").exit_code == 1
    assert spool_command("fsck", path).exit_code == 0

    key = ("class", "state", "batches", "samples")
    after = [group for group in told("ls", path)["batches"] if group["class"] != "alarm"]
    assert sorted([g[k] for k in key] for g in after) == sorted([g[k] for k in key] for g in before)


def test_fsck_finds_a_log_whose_end_is_damaged(spool: Spool, spool_path: Path, cut: MakeCut) -> None:
    for number in range(5):
        spool.commit([cut(number)])
    saved = {p.name: p.read_bytes() for p in spool_path.parent.glob("spool.db*") if p.suffix != ".lock"}
    copy = spool_path.parent / "copy"
    copy.mkdir()
    for name, image in saved.items():
        if name == "spool.db-wal":
            (copy / name).write_bytes(image[:-2000] + b"\x00\x01" + image[-1998:])
        elif not name.endswith("-shm"):
            (copy / name).write_bytes(image)

    answer = told("fsck", copy / "spool.db")
    assert answer["outcome"] == "damaged"
    assert answer["faults"].keys() == {"log"}
    assert told("fsck", copy / "spool.db", "--repair")["outcome"] == "repaired"


def test_fsck_says_beyond_repair_where_nothing_is_left_and_repair_begins_anew(
    filled: tuple[Path, int], make_spool: MakeSpool
) -> None:
    path, epoch = filled
    path.write_bytes(os.urandom(40_000))

    assert (spool_command("fsck", path).exit_code, told("fsck", path)["outcome"]) == (2, "beyond repair")
    assert spool_command("fsck", path, "--repair").exit_code == 2
    assert spool_command("fsck", path).exit_code == 0
    assert path.with_name("spool.db.damaged").exists()
    with make_spool() as spool:
        losses = [b.samples[0].values[0] for _, b in spool.load(h.id for h in spool.heads(BatchClass.ALARM))]
        assert f"{epoch:016x}" in losses


def test_fsck_finishes_a_salvage_that_a_crash_broke_off(filled: tuple[Path, int]) -> None:
    path, _ = filled
    path.rename(path.with_name("spool.db.salvage"))
    assert (told("fsck", path)["outcome"], told("fsck", path)["faults"]) == ("damaged", {"salvage": 1})
    assert told("fsck", path, "--repair")["outcome"] == "repaired"
    assert told("fsck", path)["checked"]["batches"] == 9


def test_fsck_sees_a_count_that_would_use_a_number_twice(filled: tuple[Path, int]) -> None:
    path, _ = filled
    with sqlite3.connect(path) as db:
        db.execute("DELETE FROM epoch")
    db.close()
    answer = told("fsck", path)
    assert (answer["outcome"], answer["faults"]) == ("damaged", {"counter": 1})
    assert told("fsck", path, "--repair")["outcome"] == "repaired"


def test_fsck_sees_counters_that_count_fewer_samples_than_there_are(filled: tuple[Path, int]) -> None:
    path, _ = filled
    with sqlite3.connect(path) as db:
        (row,) = read_epochs(db)
        cells = replace(row, samples_committed=row.samples_committed - 1).cells()
        db.execute("INSERT OR REPLACE INTO epoch VALUES (?,?,?,?,?,?,?,?)", cells)
    db.close()
    assert told("fsck", path)["faults"] == {"counter": 1}


def test_fsck_finds_damaged_counters_and_repair_keeps_every_batch(filled: tuple[Path, int]) -> None:
    path, _ = filled
    with sqlite3.connect(path) as db:
        db.execute("UPDATE epoch SET samples_committed = samples_committed + 1")
    db.close()
    assert told("fsck", path)["faults"]["epoch"] == 1
    assert told("fsck", path, "--repair")["outcome"] == "repaired"
    after = told("fsck", path)
    assert (after["outcome"], after["checked"]["batches"]) == ("good", 9 + 1)
    lines = [json.loads(line) for line in spool_command("export", path).stdout.splitlines() if line[0] == "{"]
    (loss,) = [line["values"] for line in lines if line["measurement"] == "loss"]
    assert (loss["first"], loss["last"], loss["samples"]) == (9, None, None), (
        "whether there were more is unknown"
    )


def test_repair_and_trim_are_for_a_stopped_box(spool: Spool, spool_path: Path, cut: MakeCut) -> None:
    spool.commit([cut(0)])
    answer = spool_command("trim", spool_path)
    assert answer.exit_code != 0
    assert "another process has this spool open: stop the box first" in str(answer.exception)


def test_what_is_no_spool_is_named_and_left_alone(tmp_path: Path) -> None:
    other = tmp_path / "other.db"
    with sqlite3.connect(other) as db:
        db.execute("CREATE TABLE x (y)")
    db.close()
    before = other.read_bytes()
    for command in (["ls"], ["fsck", "--repair"], ["export"]):
        answer = spool_command(*command, other)
        assert "expected a spool file" in str(answer.exception)
    for command in (["ls"], ["fsck"], ["trim"], ["export"]):
        assert "no such file" in str(spool_command(*command, tmp_path / "none.db").exception)
    assert other.read_bytes() == before
    assert not (tmp_path / "none.db").exists()


def test_export_gives_samples_as_json_lines_and_values_as_csv(filled: tuple[Path, int]) -> None:
    path, epoch = filled

    lines = [json.loads(line) for line in spool_command("export", path).stdout.splitlines() if line[0] == "{"]
    assert len(lines) == 6 * 3 + 3 + 3 + 1
    assert lines[0] == {
        "time": "2026-05-28T20:26:40.000000000Z",
        "n": 0,
        "site": "",
        "layer": "ground",
        "device": "mast",
        "measurement": "weather",
        "values": {"air_temperature": 0.0, "vehicle_count": 0, "state": "batch 0"},
        "quality": {},
        "class": "data",
        "epoch": f"{epoch:016x}",
        "seq": 0,
        "state": "stored",
    }
    assert lines[1]["quality"] == {"state": 9}
    text = spool_command("export", path, "--format", "csv", "--waiting").stdout
    rows = list(csv.DictReader(io.StringIO(text)))
    assert {row["state"] for row in rows if row["state"]} == {"waiting", "open"}
    assert (
        rows[0].items() >= {"field": "air_temperature", "value": "2.0", "unit": "Cel", "quality": "1"}.items()
    )


def test_export_takes_a_time_range_a_device_and_pictures(filled: tuple[Path, int], tmp_path: Path) -> None:
    path, epoch = filled
    out, folder = tmp_path / "out.jsonl", tmp_path / "pictures"
    folder.mkdir()

    done = told(
        *("export", path, "-o", out, "--pictures", folder, "--device", "mast"),
        *("--since", "2026-05-28T20:26:43Z", "--until", "2026-05-28T22:26:49+02:00"),
    )

    assert done == {"batches": 6, "samples": 16, "pictures": 1, "damaged": 0}
    times = [json.loads(line)["time"] for line in out.read_text().splitlines()]
    assert (min(times)[:19], max(times)[:19]) == ("2026-05-28T20:26:43", "2026-05-28T20:26:48")
    assert (folder / f"{epoch:016x}-8.jpg").read_bytes() == b"\xff\xd8 a picture"
    assert told("export", path, "-o", out, "--device", "none")["samples"] == 0
    assert "expected a time" in spool_command("export", path, "--since", "yesterday").output


def test_export_leaves_damaged_batches_out_and_says_so(filled: tuple[Path, int]) -> None:
    with sqlite3.connect(filled[0]) as db:
        db.execute("UPDATE batch SET rows = zeroblob(9) WHERE seq = 3")
    db.close()
    answer = spool_command("export", filled[0])
    assert answer.exit_code == 1
    assert "1 damaged batch left out" in answer.stderr


def test_trim_deletes_receipted_batches_and_nothing_else(filled: tuple[Path, int]) -> None:
    assert told("trim", filled[0]) == {"deleted": 2, "declared_lost": {}}
    states = {group["state"] for group in told("ls", filled[0])["batches"]}
    assert states == {"waiting", "open"}


def test_trim_loses_readings_only_when_told_so_twice_and_declares_them(filled: tuple[Path, int]) -> None:
    path, epoch = filled
    assert spool_command("trim", path, "--waiting").exit_code == 2
    assert spool_command("trim", path, "--class", "media").exit_code == 2
    assert len(told("ls", path)["batches"]) == 5

    answer = told("trim", path, "--waiting", "--declare-lost", "--class", "data", "--class", "media")

    assert answer["declared_lost"] == {"data": 5, "media": 1}
    left = {(g["class"], g["state"]): g["samples"] for g in told("ls", path)["batches"]}
    assert left.keys() == {("preview", "waiting"), ("alarm", "waiting")}
    lines = [json.loads(line) for line in spool_command("export", path).stdout.splitlines() if line[0] == "{"]
    losses = [line["values"] for line in lines if line["measurement"] == "loss"]
    assert sum(loss["samples"] for loss in losses) == 4 * 3 + 3 + 1
    assert {loss["reason"] for loss in losses} == {"trimmed"}
    assert {loss["epoch"] for loss in losses} == {f"{epoch:016x}"}


@pytest.mark.parametrize(
    "damage", ["UPDATE mark SET max_n = max_n + 4", "UPDATE stream SET description = description || x'00'"]
)
def test_fsck_finds_a_damaged_stream_or_mark_of_its_ordinals(filled: tuple[Path, int], damage: str) -> None:
    with sqlite3.connect(filled[0]) as db:
        db.execute(damage)
    db.close()
    assert told("fsck", filled[0])["faults"]["stream"] == 1
    assert told("fsck", filled[0], "--repair")["outcome"] == "repaired"
