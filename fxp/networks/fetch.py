"""Packages that data comes from: fetched by name and version through pip, accepted by checksum alone."""

from __future__ import annotations

import hashlib
import os
import subprocess
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path

from traces import InputError


@dataclass(frozen=True)
class Package:
    """A file of a release on PyPI.

    Attributes
    ----------
    name, version : str
    sha256 : str, 64 hexadecimal digits
    source : bool, the source distribution rather than the wheel
    licence : str
    """

    name: str
    version: str
    sha256: str
    source: bool
    licence: str


REVIEWS = Package(
    "vaderSentiment", "3.3.2", "5d7c06e027fc8b99238edb0d53d970cf97066ef97654009890b83703849632f9", True, "MIT"
)
CHORALES = Package(
    "music21", "9.9.1", "cdf550c7d2626d367cd265f64309cbf0bd599eec672048308a74963eeb8fa3b5", False,
    "BSD-3-Clause; its scores of Bach's chorales: © 2004 Margaret Greentree, used by permission",
)  # fmt: skip


def cache() -> Path:
    """Folder for what is fetched and built: `fxp-lstm` in $XDG_CACHE_HOME or ~/.cache."""
    base = os.environ.get("XDG_CACHE_HOME", "")
    return (Path(base) if os.path.isabs(base) else Path.home() / ".cache") / "fxp-lstm"


def fetch(package: Package, folder: Path | None = None) -> Path:
    """The file of a package, from the cache or through pip, which runs nothing of it but, for a source distribution,
    the script that tells its metadata (after the checksum was compared).

    Raises
    ------
    InputError
        pip cannot fetch it, or what came has another checksum.
    """
    folder = cache() / "packages" if folder is None else folder
    known = folder / f"{package.name}-{package.version}{'.tar.gz' if package.source else '.whl'}"
    if known.is_file() and checksum(known) == package.sha256:
        return known
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise InputError(f"{folder}: cannot be made a folder ({error.strerror})") from None
    with tempfile.TemporaryDirectory(dir=folder) as aside:
        requirement = Path(aside) / "requirement.txt"
        requirement.write_text(f"{package.name}=={package.version} --hash=sha256:{package.sha256}\n")
        form = ["--no-binary" if package.source else "--only-binary", package.name]
        command = [sys.executable, "-m", "pip", "download", "--quiet", "--disable-pip-version-check", "--no-deps",
                   *form, "--require-hashes", "-r", str(requirement), "-d", aside]  # fmt: skip
        done = subprocess.run(command, capture_output=True, text=True)
        files = [file for file in Path(aside).iterdir() if file != requirement]
        if done.returncode or len(files) != 1:
            reason = (done.stderr.strip().splitlines() or ["no file came"])[-1]
            raise InputError(f"{package.name} {package.version} cannot be fetched with pip: {reason}")
        if checksum(files[0]) != package.sha256:
            raise InputError(f"{package.name} {package.version}: the file that came has another checksum")
        os.replace(files[0], known)
    return known


def checksum(path: Path) -> str:
    """SHA-256 of a file, hexadecimal."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
