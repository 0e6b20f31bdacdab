"""Run the commands of the README's shell blocks, one by one, as a reader would; the first failure ends it."""

import os
import re
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[1]


def main() -> int:
    blocks = re.findall(
        r"^```sh\n(.*?)^```", (ROOT / "README.md").read_text(encoding="utf-8"), re.MULTILINE | re.DOTALL
    )
    commands = [line for block in blocks for line in block.splitlines() if line.strip()]
    path = f"{ROOT / '.venv' / 'bin'}{os.pathsep}{os.environ['PATH']}"
    for command in commands:
        print(f"$ {command}", flush=True)
        if subprocess.run(
            ["bash", "-c", command], cwd=ROOT, env={**os.environ, "PATH": path}, check=False
        ).returncode:
            return 1
    return 0 if commands else 1


if __name__ == "__main__":
    sys.exit(main())
