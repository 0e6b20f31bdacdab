"""Check that a wheel holds what it must and nothing it must not: ``wheel_files.py FILE.whl``."""

import sys
import zipfile
from pathlib import Path

ROOT = Path(__file__).parents[1]
PARTS = {"core": "core", "drivers": "drivers", "edge": "edge", "gateway": "gateway", "hw-sims": "sims"}
VENDOR = "trisense/gateway/console/static/vendor/"
VENDORED = {f"{VENDOR}{lib}.{kind}" for lib in ("leaflet", "uplot") for kind in ("js", "css", "LICENSE")}


def expected() -> set[str]:
    """Every source file of every part, by its path in the wheel."""
    found = set()
    for folder, name in PARTS.items():
        base = ROOT / folder
        for file in (base / "trisense" / name).rglob("*"):
            path = file.relative_to(base).as_posix()
            if file.is_file() and "__pycache__" not in path and not path.startswith(VENDOR):
                found.add(path)
    return found


def main() -> int:
    with zipfile.ZipFile(sys.argv[1]) as wheel:
        names = {n for n in wheel.namelist() if ".dist-info/" not in n}
        licences = [n for n in wheel.namelist() if n.endswith("/LICENSE")]
    vendor = {n for n in names if n.startswith(VENDOR)}
    complaints = [f"missing: {n}" for n in sorted(expected() - names)]
    complaints += [f"unexpected: {n}" for n in sorted(names - expected() - vendor)]
    complaints += [f"not vendored: {n}" for n in sorted(VENDORED - vendor)]
    complaints += [] if licences else ["no LICENSE"]
    print(f"{Path(sys.argv[1]).name}: {len(names)} files, {len(vendor)} of them vendored")
    print("\n".join(complaints))
    return 1 if complaints else 0


if __name__ == "__main__":
    sys.exit(main())
