"""HDF5 files: written aside and moved into place, opened with every guard, digested by content.

Nothing in a file is trusted before it is checked: only hard links are followed, only plain numbers and text
are read, only the HDF5 library's own compression is used, and the declared sizes must be in proportion to the
file. What the library reports about a damaged file becomes a `FormatError`.
"""

import contextlib
import hashlib
import os
import secrets
import stat
import weakref
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

import h5py
import numpy as np

from traces.aside import Aside
from traces.errors import FormatError, InputError, one_line
from traces.fields import MAX_GROUPS, MAX_TEXT, Array, Attribute, Group, Node, dump
from traces.interrupts import held

Pathlike = str | os.PathLike[str]

MAX_RATIO = 1100
"""Most bytes that a file may declare for each byte it has (deflate itself reaches 1032)."""
ALLOWANCE = 16 << 20
"""Bytes that a file may declare regardless of its size."""
MEMORY_RATIO = 64
"""Most bytes that a file may have read into memory on opening for each byte it has, if they exceed `MEMORY`."""
MEMORY = 256 << 20
"""Bytes that a file may have read into memory on opening regardless of its size."""
MAX_CHUNK = 64 << 20
"""Largest chunk, in bytes; the library decompresses a chunk as a whole."""
CHUNK = 256 << 10
"""Size of the chunks that are written, in bytes."""
LEVEL = 1
COMPRESSION = {"compression": "gzip", "compression_opts": LEVEL, "shuffle": True}
"""Level 1: higher ones cost more time in the emulator's loop and gain little on bit-packed plans."""
_FILTERS = {h5py.h5z.FILTER_DEFLATE, h5py.h5z.FILTER_SHUFFLE, h5py.h5z.FILTER_FLETCHER32}
_LAYOUTS = {h5py.h5d.COMPACT, h5py.h5d.CONTIGUOUS, h5py.h5d.CHUNKED}
_CLASSES = {h5py.h5t.INTEGER, h5py.h5t.FLOAT, h5py.h5t.STRING}
_FAULTS = (OSError, RuntimeError, LookupError, ValueError, TypeError, AttributeError, ArithmeticError,
           NotImplementedError, MemoryError)  # fmt: skip


@contextlib.contextmanager
def reading(path: Pathlike) -> Iterator[None]:
    """Turn whatever reading a bad file raises into a FormatError that names the file."""
    try:
        yield
    except FormatError:
        raise
    except InputError as error:
        raise FormatError(f"{os.fspath(path)}: {error}") from error
    except _FAULTS as error:
        raise FormatError(f"{os.fspath(path)}: the file is damaged: {one_line(error)}") from error


def named(path: Pathlike) -> str:
    """A path as text; InputError for what is none."""
    if not isinstance(path, (str, os.PathLike)) or not isinstance(os.fspath(path), str):
        raise InputError(f"path is {path!r}; it must be the name of a file")
    return os.fspath(path)


def size_of(path: Pathlike) -> int:
    """Size, in bytes, of a regular file that may be read; InputError for any other."""
    name = named(path)
    try:
        status = os.stat(name)
        regular = stat.S_ISREG(status.st_mode)
        if regular:
            with open(name, "rb"):
                pass
    except (OSError, ValueError) as error:
        raise InputError(f"{name}: cannot be read: {getattr(error, 'strerror', None) or error}") from error
    if not regular:
        raise InputError(f"{name}: is not a regular file")
    return status.st_size


def open_file(path: Pathlike) -> h5py.File:
    """Open an HDF5 file for reading.

    Raises
    ------
    InputError
        There is no such file, it is not a regular file or it may not be read.
    FormatError
        It is not an HDF5 file, or a truncated one.
    """
    size_of(path)
    with reading(path):
        try:
            return h5py.File(named(path), "r", locking="best-effort")
        except OSError as error:
            raise FormatError(
                f"{named(path)}: is not an HDF5 file or is truncated: {one_line(error)}"
            ) from error


def load(spec: Group, group: h5py.Group) -> Node:
    """The tree of a file's content as its schema describes it: decoded attributes, unread data sets.

    Raises InputError for what the schema does not know and for what a guard refuses.
    """
    return _load(spec, group, "", _Budget(os.path.getsize(group.file.filename)))


class _Budget:
    """What the data sets of a file of `size` bytes may still declare, in bytes."""

    def __init__(self, size: int) -> None:
        self._all = MAX_RATIO * size + ALLOWANCE
        self._memory = max(MEMORY, MEMORY_RATIO * size)

    def spend(self, size: int, streamed: bool, where: str) -> None:
        """Account for a data set; InputError where that is too much."""
        self._all -= size
        if not streamed:
            self._memory -= size
        if self._all < 0 or self._memory < 0:
            raise InputError(f"{where} declares {size} bytes, out of proportion to the size of the file")


def _load(spec: Group, group: h5py.Group, where: str, budget: _Budget) -> Node:
    node = Node()
    for attribute in spec.attributes:
        if attribute.name in group.attrs:
            node.attributes[attribute.name] = read_attribute(group, attribute, where)
    arrays = {array.name: array for array in spec.arrays}
    groups = {child.name: child for child in spec.groups}
    for name in _members(group, where):
        place = where + name
        if name in arrays:
            node.arrays[name] = _dataset(group[name], arrays[name], place, budget)
        elif name not in groups:
            raise InputError(f"{place} is not part of the format")
        elif not isinstance(group[name], h5py.Group):
            raise InputError(f"{place} must be a group")
        elif groups[name].repeated:
            node.lists[name] = list(_numbered(groups[name], group[name], place, budget))
        else:
            node.groups[name] = _load(groups[name], group[name], place + "/", budget)
    return node


def _numbered(spec: Group, parent: h5py.Group, where: str, budget: _Budget) -> Iterator[Node]:
    names = _members(parent, where + "/")
    if set(names) != {str(number) for number in range(len(names))}:
        raise InputError(f"{where} must hold groups named 0 to {len(names) - 1}")
    for number in range(len(names)):
        child = parent[str(number)]
        if not isinstance(child, h5py.Group):
            raise InputError(f"{where}/{number} must be a group")
        yield _load(spec, child, f"{where}/{number}/", budget)


def _members(group: h5py.Group, where: str) -> list[str]:
    """Names in a group, all of them hard links; counted before they are listed."""
    if len(group) > MAX_GROUPS:
        raise InputError(f"group {where or '/'} has {len(group)} members; at most {MAX_GROUPS} are read")
    names = list(group)
    for name in names:
        if group.id.links.get_info(name.encode()).type != h5py.h5l.TYPE_HARD:
            raise InputError(f"{where}{name} is a soft or external link; links are not followed")
    return names


def _dataset(dataset: Any, spec: Array, where: str, budget: _Budget) -> h5py.Dataset:
    """Pass a data set whose type, layout, filters and size are harmless."""
    if not isinstance(dataset, h5py.Dataset):
        raise InputError(f"{where} must be a data set")
    kind = dataset.id.get_type()
    if kind.get_class() not in _CLASSES or (kind.get_class() == h5py.h5t.STRING and kind.is_variable_str()):
        raise InputError(f"{where} holds neither plain numbers nor text of fixed length")
    layout = dataset.id.get_create_plist()
    if layout.get_layout() not in _LAYOUTS or layout.get_external_count():
        raise InputError(
            f"{where} keeps its values outside the file; virtual and external storage is refused"
        )
    filters = {layout.get_filter(number)[0] for number in range(layout.get_nfilters())}
    if not filters <= _FILTERS:
        raise InputError(
            f"{where} uses HDF5 filter {min(filters - _FILTERS)}; only gzip, shuffle and fletcher32 are read"
        )
    itemsize = kind.get_size()
    if layout.get_layout() == h5py.h5d.CHUNKED and _product(layout.get_chunk()) * itemsize > MAX_CHUNK:
        raise InputError(f"{where} has chunks of over {MAX_CHUNK} bytes")
    size = _product(dataset.shape) * itemsize
    budget.spend(size, spec.streamed, where)
    if size and not dataset.id.get_storage_size():
        raise InputError(f"{where} was never written")
    if not any(kind.equal(h5py.h5t.py_create(np.dtype(dtype))) for dtype in spec.dtypes):
        raise InputError(f"{where} holds {dataset.dtype}; it must hold {' or '.join(spec.dtypes)}")
    return dataset


def read_attribute(group: h5py.Group, spec: Attribute, where: str = "") -> Any:
    """The raw value of an attribute: text or a number, checked to be a plain scalar before it is read.

    Text of variable length is refused, as the library can loop without end in its damaged heap.
    """
    place = f"attribute {where}{spec.name}"
    stored = group.attrs.get_id(spec.name)
    kind, number = stored.get_type(), spec.type in ("integer", "flag")
    if stored.shape != () or kind.get_class() != (h5py.h5t.INTEGER if number else h5py.h5t.STRING):
        raise InputError(f"{place} must be a single {'integer' if number else 'text'}")
    if not number and (kind.is_variable_str() or kind.get_size() > MAX_TEXT):
        raise InputError(f"{place} must be text of fixed length, at most {MAX_TEXT} bytes")
    value = np.empty((), dtype=stored.dtype)
    stored.read(value)
    return value.item().decode() if not number else value.item()


def write_attribute(group: h5py.Group, name: str, value: str | int) -> None:
    """Write an integer as int64, text as UTF-8 of fixed length."""
    if isinstance(value, str):
        content = value.encode()
        dtype = h5py.string_dtype("utf-8", max(1, len(content)))
        group.attrs.create(name, np.array(content, dtype=dtype), dtype=dtype)
    else:
        group.attrs.create(name, np.int64(value))


def label(file: h5py.File, header: Mapping[str, str | int]) -> None:
    """Write the attributes that say what a file is."""
    for name, value in header.items():
        write_attribute(file, name, value)


def save(spec: Group, node: Node, group: h5py.Group) -> None:
    """Write a tree that conforms to its schema. Arrays that hold enough to gain from it are compressed."""
    for attribute in spec.attributes:
        if attribute.name in node.attributes:
            value = node.attributes[attribute.name]
            text = dump(value, attribute.name) if attribute.type == "json" else value
            write_attribute(group, attribute.name, text)
    for array in spec.arrays:
        if array.name in node.arrays:
            values = np.asarray(node.arrays[array.name])
            group.create_dataset(array.name, data=values, **layout_of(values.shape, values.dtype.itemsize))
    for child in spec.groups:
        if child.repeated:
            parent = group.require_group(child.name)
            for number, item in enumerate(node.lists[child.name]):
                save(child, item, parent.require_group(str(number)))
        elif child.name in node.groups:
            save(child, node.groups[child.name], group.create_group(child.name))


def layout_of(shape: tuple[int, ...], itemsize: int) -> dict[str, Any]:
    """Creation options: compressed chunks of about `CHUNK` bytes, cut along leading axes; none if tiny."""
    if _product(shape) * itemsize < 512:
        return {}
    chunk = list(shape)
    for axis in range(len(chunk)):
        rest = itemsize * _product(tuple(chunk[axis + 1 :]))
        chunk[axis] = max(1, min(chunk[axis], CHUNK // rest))
        if chunk[axis] > 1:
            break
    return {"chunks": tuple(chunk), **COMPRESSION}


class Output:
    """An HDF5 file under construction beside its destination.

    `commit` closes it and moves it into place; `discard` removes it. What stood at the destination stays
    untouched until then. Every failure to write is an InputError that names the destination.
    """

    def __init__(self, path: Pathlike) -> None:
        self.path = Path(named(path))
        with self.writing():
            self.path = Path(os.path.realpath(path))
            unfit = self.path.exists() and not self.path.is_file()
        if unfit:
            raise InputError(f"{self.path}: is not a regular file; choose another path for the output")
        name = f".{self.path.name[:200]}.{os.getpid()}.{secrets.token_hex(8)}.tmp"
        self._aside = self.path.with_name(name)
        # Should an interrupt come before anybody holds this object, the end of the program removes the file.
        self._forgotten = weakref.finalize(self, _remove, self._aside, os.getpid())
        with self.writing():
            self._sink = Aside(self._aside)
            try:
                self.file = h5py.File(self._sink, "w", libver=("v110", "v110"))
            except BaseException:
                self._remove()
                raise

    @contextlib.contextmanager
    def writing(self) -> Iterator[None]:
        """Turn the library's and the system's failures to write into an InputError."""
        sink = getattr(self, "_sink", None)
        try:
            with held():
                yield
            if sink is not None and sink.failure is not None:
                raise sink.failure
        except InputError:
            raise
        except (OSError, RuntimeError, ValueError) as caught:
            error = getattr(sink, "failure", None) or caught
            reason = getattr(error, "strerror", None) or one_line(error)
            raise InputError(f"{self.path}: cannot be written: {reason}") from error

    def commit(self) -> None:
        """Close the file and move it to its destination."""
        try:
            with self.writing():
                self.file.close()
                self._sink.close()
            with self.writing():
                if self.path.exists():
                    os.chmod(self._aside, stat.S_IMODE(os.stat(self.path).st_mode))
                os.replace(self._aside, self.path)
                self._forgotten.detach()
        except BaseException:
            self.discard()
            raise

    def discard(self) -> None:
        """Remove what was written; the destination keeps its old content."""
        with held():
            with contextlib.suppress(Exception):
                self.file.close()
            self._remove()

    def _remove(self) -> None:
        self._sink.close()
        self._forgotten()


def _remove(path: Path, owner: int) -> None:
    """Remove an unfinished file; not in a copy of the process that writes it."""
    if os.getpid() == owner:
        with contextlib.suppress(OSError):
            path.unlink(missing_ok=True)


def write(path: Pathlike, spec: Group, node: Node, header: Mapping[str, str | int]) -> None:
    """Write a whole file at once: the attributes of `header`, then the tree."""
    output = Output(path)
    try:
        with output.writing():
            label(output.file, header)
            save(spec, node, output.file)
    except BaseException:
        output.discard()
        raise
    output.commit()


class Digest:
    """SHA-256 of named values in a fixed order, whatever their compression or chunks in a file."""

    def __init__(self, kind: str) -> None:
        self._hash = hashlib.sha256(kind.encode() + b"\0")

    def text(self, name: str, value: object) -> None:
        """Add a named value by its text."""
        content = f"{name}={value}".encode()
        self._hash.update(len(content).to_bytes(8, "little") + content)

    def array(self, name: str, dtype: str, shape: tuple[int, ...], pieces: Iterable[np.ndarray]) -> None:
        """Add a named array in pieces that follow each other in memory order."""
        self.text(name, f"{np.dtype(dtype).str}{list(map(int, shape))}")
        for piece in pieces:
            self._hash.update(np.ascontiguousarray(piece, dtype=dtype).reshape(-1).view(np.uint8).data)

    def hex(self) -> str:
        """64 hexadecimal digits."""
        return self._hash.hexdigest()


def _product(shape: tuple[int, ...]) -> int:
    size = 1
    for extent in shape:
        size *= int(extent)
    return size
