"""The kernels for AMX on processors without it."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from fxp import instructions

HERE = Path(__file__).parent


@pytest.mark.skipif("vnni" not in instructions.supported(), reason="needs AVX-512 with VNNI beside the emulated tiles")
@pytest.mark.skipif("amx" in instructions.supported(), reason="has AMX, on which the same tests run")
def test_kernels_with_emulated_tiles(tmp_path):
    """The tests of the AMX kernels, but for those with threads, which have tile registers of their own."""
    command = [
        sys.executable, "-m", "pytest", "-q", "-p", "emulated_tiles", "-p", "no:cacheprovider", "-n", "0",
        "test_engines.py", "test_kernels.py", "-k", "amx and not threads and not grouping and not side_by_side",
    ]  # fmt: skip
    variables = os.environ | {"NUMBA_CACHE_DIR": str(tmp_path), "PYTHONPATH": str(HERE)}
    for name in ("PYTEST_XDIST_WORKER", "PYTEST_ADDOPTS"):
        variables.pop(name, None)
    result = subprocess.run(command, cwd=HERE, env=variables, capture_output=True, text=True, timeout=900)
    assert result.returncode == 0, result.stdout[-4000:]
    passed = re.search(r"(\d+) passed", result.stdout)
    assert passed and int(passed[1]) > 500 and "skipped" not in result.stdout, result.stdout[-2000:]
