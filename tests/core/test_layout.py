"""The layout's traps: each broke a development install or a wheel once."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest
from trisense.core import errors

ROOT = Path(__file__).parents[2]
PARTS = ["core", "drivers", "edge", "gateway", "hw-sims"]


@pytest.mark.parametrize("part", PARTS)
def test_trisense_itself_stays_a_namespace(part: str) -> None:
    assert not (ROOT / part / "trisense" / "__init__.py").exists()


@pytest.mark.parametrize("part", PARTS)
def test_each_part_is_typed(part: str) -> None:
    (package,) = [p for p in (ROOT / part / "trisense").iterdir() if (p / "__init__.py").exists()]
    assert (package / "py.typed").exists()


def test_every_error_stands_in_the_picture_of_the_tree() -> None:
    doc = errors.__doc__ or ""
    classes = [v for v in vars(errors).values() if isinstance(v, type) and issubclass(v, Exception)]
    assert len(classes) > 10
    for error in classes:
        assert issubclass(error, errors.TrisenseError)
        assert f" {error.__name__} " in doc or f"{error.__name__}\n" in doc, error.__name__


def test_every_error_of_ours_grows_on_the_tree() -> None:
    strays = []
    for part in PARTS:
        if part == "hw-sims":  # a simulator's hang-up is no error of the product
            continue
        for file in (ROOT / part).rglob("*.py"):
            for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
                if isinstance(node, ast.ClassDef) and file.name != "errors.py":
                    bases = {getattr(base, "id", "") for base in node.bases}
                    if bases & {"Exception", "BaseException", "RuntimeError", "ValueError", "OSError"}:
                        strays.append(f"{file.relative_to(ROOT)}: {node.name}")
    assert strays == []


def test_lock_files_carry_versions_and_hashes_and_no_address() -> None:
    files = sorted((ROOT / "requirements").glob("*.lock"))
    assert [f.stem for f in files] == ["all", "dev", "edge", "gateway"]
    for file in files:
        text = file.read_text(encoding="utf-8")
        assert "://" not in text
        for block in text.replace("\\\n", " ").splitlines():
            assert "==" in block, block
            assert "--hash=sha256:" in block, block


def test_a_box_installs_nothing_of_the_gateway() -> None:
    names = {
        line.split("==")[0]
        for line in (ROOT / "requirements" / "edge.lock").read_text().splitlines()
        if "==" in line
    }
    assert "aiomqtt" in names
    assert not names & {"duckdb", "numpy", "influxdb-client", "starlette", "uvicorn", "rasterio", "pillow"}
