"""What ``trisense edge check`` prints for somebody with a telephone on a ladder."""

from __future__ import annotations

from pathlib import Path

import pytest
from trisense.core.model import Quality, Sample
from trisense.edge.commands.check_screen import show
from trisense.edge.commands.checking import Reading
from trisense.edge.config import BoxConfig, load

DEVICE = '[[device]]\nname = "{name}"\ndriver = "plantower"\nline = "tcp://127.0.0.1:{port}"\n'


@pytest.fixture
def box(tmp_path: Path) -> BoxConfig:
    file = tmp_path / "edge.toml"
    devices = [DEVICE.format(name=name, port=port) for port, name in enumerate(("dust", "gone", "cold"), 1)]
    head = (
        '[box]\nid = "kx-001"\nsite = "x"\n[spool]\npath = "spool.db"\n[mqtt]\nhost = "localhost"\nport = 1\n'
    )
    file.write_text(head + "\n".join(devices))
    return load(file)


def test_names_and_values_are_whole_on_forty_columns_and_what_is_wrong_comes_last(
    box: BoxConfig, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("COLUMNS", "40")
    stream = box.devices[0].streams[0]
    nulls = (None,) * len(stream.fields)
    said = (12.5, *nulls[1:])
    missing = tuple((index, Quality.MISSING) for index in range(len(nulls)))
    show(
        box,
        [
            Reading("dust", (Sample(stream, 0, said, quality=((0, Quality.SUSPECT), *missing[1:])),)),
            Reading("gone", error="connection refused\x1b[2J"),
            Reading("cold", (Sample(stream, 0, nulls, quality=missing),)),
        ],
    )
    lines = [line.rstrip() for line in capsys.readouterr().out.splitlines()]

    assert max(map(len, lines)) <= 40
    assert "  pm1_cf1                12.5 ug/m3" in lines
    assert "  (suspect)" in lines
    assert "  pm2_5_cf1              - (missing)" in lines
    told = " ".join(lines[lines.index("cold/air_quality") :])
    assert "gone: cannot be read: connection refused\N{REPLACEMENT CHARACTER}[2J" in told
    assert "cold: answers, but has no value: it warms up, or reports a fault" in told
    assert lines[-1] == "1 of 3 devices cannot be read."
