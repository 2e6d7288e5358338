"""Installs the rivals of `requirements.txt` into the running environment, one line of it after the other.

A rival that cannot be had is named and left out; `bench.kernels` then names it in its results.
"""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path


def main() -> int:
    for line in Path(__file__).with_name("requirements.txt").read_text().splitlines():
        wanted = line.split("#")[0].split()
        if not wanted:
            continue
        command = [sys.executable, "-m", "pip", "install", "--quiet", "--disable-pip-version-check", *wanted]
        if subprocess.run(command, check=False).returncode:
            print(f"{' '.join(wanted)} cannot be installed here and will not take part", file=sys.stderr)
    return 0


if __name__ == "__main__":
    sys.exit(main())
