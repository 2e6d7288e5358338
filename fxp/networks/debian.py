"""Debian's packages as sources of data: fetched by name and version, accepted by checksum alone, read in memory."""

from __future__ import annotations

import io
import os
import shutil
import subprocess
import tarfile
import tempfile
import urllib.error
import urllib.request
from dataclasses import dataclass
from pathlib import Path

from fxp.networks import fetch
from traces import InputError

POOL = "https://deb.debian.org/debian/pool/main"
TIMEOUT = 60  # seconds without an answer
_HEADER, _MAGIC = 60, b"!<arch>\n"


@dataclass(frozen=True)
class Package:
    """A binary package for all architectures.

    Attributes
    ----------
    name, version : str
    place : str
        Its folder in the pool.
    sha256 : str, 64 hexadecimal digits
    """

    name: str
    version: str
    place: str
    sha256: str

    @property
    def file(self) -> str:
        """Its name in the pool: without the epoch of the version."""
        return f"{self.name}_{self.version.rpartition(':')[2]}_all.deb"


def package(wanted: Package) -> Path:
    """The file of a package: from the cache, from apt where there is one, or from Debian's pool.

    Raises
    ------
    InputError
        It cannot be fetched, or what came has another checksum.
    """
    folder = fetch.cache() / "packages"
    known = folder / wanted.file
    if known.is_file() and fetch.checksum(known) == wanted.sha256:
        return known
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise InputError(f"{folder}: cannot be made a folder ({error.strerror})") from None
    reasons = []
    with tempfile.TemporaryDirectory(dir=folder) as aside:
        for way in (_with_apt, _from_pool):
            reason = way(wanted, Path(aside))
            found = list(Path(aside).glob("*.deb"))
            if reason is None and len(found) == 1 and fetch.checksum(found[0]) == wanted.sha256:
                os.replace(found[0], known)
                return known
            for file in found:
                file.unlink()
            reasons.append(reason or "the file that came has another checksum")
    raise InputError(
        f"Debian's package {wanted.name} {wanted.version} cannot be fetched: with apt, {reasons[0]}; from {POOL}, "
        f"{reasons[1]}. Put {wanted.file} into {folder}"
    )


def _with_apt(wanted: Package, folder: Path) -> str | None:
    """None if apt fetched it, otherwise why not."""
    program = shutil.which("apt-get")
    if program is None:
        return "there is no apt-get"
    command = [program, "-q", "download", f"{wanted.name}={wanted.version}"]
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, errors="replace")
    return None if done.returncode == 0 else (done.stderr.strip().splitlines() or ["no reason given"])[-1]


def _from_pool(wanted: Package, folder: Path) -> str | None:
    """None if the pool gave it, otherwise why not."""
    try:
        with urllib.request.urlopen(f"{POOL}/{wanted.place}/{wanted.file}", timeout=TIMEOUT) as answer:
            (folder / wanted.file).write_bytes(answer.read())
    except (urllib.error.URLError, OSError) as error:
        return str(getattr(error, "reason", error))
    return None


def files(path: Path, endings: str | tuple[str, ...]) -> list[tuple[str, bytes]]:
    """(name, content) of the plain files of a package whose names end so, in the order of their names.

    Raises
    ------
    InputError
        The package is damaged.
    """
    found = []
    try:
        with tarfile.open(fileobj=io.BytesIO(_member(path.read_bytes(), "data.tar")), mode="r|*") as archive:
            for entry in archive:
                if entry.isreg() and entry.name.endswith(endings):
                    content = archive.extractfile(entry)
                    assert content is not None
                    found.append((entry.name.removeprefix("./"), content.read()))
    except (tarfile.TarError, ValueError, EOFError, OSError) as error:
        raise InputError(f"{path}: not a Debian package that can be read ({error})") from None
    return sorted(found)


def _member(package: bytes, name: str) -> bytes:
    """Content of the member of an ar archive whose name begins so (ar(5), the common format)."""
    if not package.startswith(_MAGIC):
        raise ValueError("no ar archive")
    place = len(_MAGIC)
    while place + _HEADER <= len(package):
        header = package[place : place + _HEADER]
        size = int(header[48:58])
        place += _HEADER
        if header[:16].decode("ascii", "replace").startswith(name):
            return package[place : place + size]
        place += size + size % 2
    raise ValueError(f"no member {name}")
