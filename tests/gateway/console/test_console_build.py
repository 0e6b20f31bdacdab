"""The build hook and what it copies."""

from __future__ import annotations

import importlib.util
import json
import re
import shutil
from pathlib import Path
from types import ModuleType

import pytest

ROOT = Path(__file__).parents[3]
HOOK = Path("gateway", "build_console.py")
NPM = Path("gateway", "console")
VENDOR = Path("gateway", "trisense", "gateway", "console", "static", "vendor")


@pytest.fixture
def hook(tmp_path: Path) -> ModuleType:
    """The hook in a copy of the parts of the tree that it knows."""
    pytest.importorskip("hatchling", reason="hatchling is needed to load its hook")
    for part in (NPM / "package.json", NPM / "package-lock.json", NPM / ".npmrc", HOOK):
        (tmp_path / part).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(ROOT / part, tmp_path / part)
    shutil.copytree(ROOT / VENDOR, tmp_path / VENDOR)
    spec = importlib.util.spec_from_file_location("build_console", tmp_path / HOOK)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_copies_that_match_the_lock_are_left_alone_without_npm(
    hook: ModuleType, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PATH", "")
    hook.refresh()
    assert hook.up_to_date()


@pytest.mark.parametrize("change", [NPM / "package-lock.json", VENDOR / "leaflet.js", VENDOR / "SHA256SUMS"])
def test_any_difference_calls_for_fresh_copies(hook: ModuleType, tmp_path: Path, change: Path) -> None:
    with (tmp_path / change).open("a") as file:
        file.write("\n")
    assert not hook.up_to_date()


def test_a_missing_copy_calls_for_fresh_ones(hook: ModuleType, tmp_path: Path) -> None:
    (tmp_path / VENDOR / "uplot.js").unlink()
    assert not hook.up_to_date()


def test_a_missing_npm_is_an_error_that_says_so(
    hook: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / VENDOR / "uplot.js").unlink()
    monkeypatch.setenv("PATH", "")
    with pytest.raises(RuntimeError, match="npm"):
        hook.refresh()


def test_the_lock_holds_versions_and_hashes_and_no_address() -> None:
    text = (ROOT / NPM / "package-lock.json").read_text()
    packages = json.loads(text)["packages"]
    assert all(
        package.get("integrity", "").startswith("sha512-") for name, package in packages.items() if name
    )
    assert not re.search(r"https?:|resolved", text)


def test_the_licences_travel_with_the_copies() -> None:
    for name in ("leaflet", "uplot"):
        assert "Copyright" in (ROOT / VENDOR / f"{name}.LICENSE").read_text()


def test_the_page_names_only_files_that_are_there() -> None:
    static = ROOT / VENDOR.parent
    page = (static / "index.html").read_text()
    for named in re.findall(r'(?:src|href)="/static/([^"]+)"', page):
        assert (static / named).is_file(), named
    for module in static.glob("*.js"):
        for named in re.findall(r'^import .*?"\./([^"]+)"', module.read_text(), re.MULTILINE):
            assert (static / named).is_file(), f"{module.name}: {named}"
