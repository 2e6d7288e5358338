"""A file of unknown origin is first read in a child process with limits.

Libraries in C can crash, loop without end or take all memory on a damaged file, which no `except` catches. So a child
reads the file first. Of HDF5 it holds the content against its schema, reads what opening reads and walks the index of
everything else. If that ends badly, the file is refused and this process has never read it.
"""

from __future__ import annotations

import contextlib
import json
import os
import select
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from importlib import import_module
from typing import Any, NoReturn

import h5py

from traces import schema, store
from traces.errors import FormatError, InputError, one_line
from traces.fields import Node

SECONDS = 8
"""Processor time of a child, in seconds, for a small file; one more for every `RATE` bytes."""
PATIENCE = 60
"""Time on the clock, in seconds, which grows likewise: a loop ends by its processor time long before."""
RATE = 4 << 20
MEMORY = 1 << 30
"""Bytes that a child may add to its address space; twice the size of the file comes on top."""
HDF5 = "traces.child:examine"
READ = 64 << 20
"""Bytes of data sets that a child reads; of the rest it walks the index of the chunks."""

_REFUSED = 3
_MESSAGE = 1 << 12


class Check:
    """The check of one file, running in a child since the object was made; `wait` gives the verdict.

    Parameters
    ----------
    path : path
    reader : str
        "module:function" that reads the file and raises InputError for a bad one.
    needs : sequence of str
        Modules that the reader imports; the limits do not count them.

    Raises
    ------
    InputError
        There is no such file, it is not a regular file or it may not be read.
    """

    def __init__(self, path: store.Pathlike, reader: str = HDF5, needs: Sequence[str] = ()) -> None:
        self._name, self._done, self._late = store.named(path), True, False
        size = store.size_of(path)
        self._seconds = SECONDS + size // RATE
        self._deadline = time.monotonic() + PATIENCE + size // RATE
        if os.name != "posix":
            # Without process limits the check is the reading itself.
            _resolve(reader)(path)
            return
        start = _forked if _can_fork() else _spawned
        self._pid, self._reader = start(_Task(self._name, reader, list(needs), self._seconds, MEMORY + 2 * size))
        self._done = False

    def wait(self) -> None:
        """Wait for the child's verdict.

        Raises
        ------
        FormatError
            The file is not valid, or reading it ended the child.
        InputError
            The child did not get to the end for lack of processor time or because of a file system that hangs.
        """
        if self._done:
            return
        try:
            text = self._message()
        finally:
            code = self._end()
        if code == _REFUSED:
            raise FormatError(text or f"{self._name}: the file is damaged")
        if self._late:
            raise InputError(
                f"{self._name}: could not be checked in {PATIENCE} s: the machine is overloaded, or "
                "its file system hangs"
            )
        if code:
            raise FormatError(f"{self._name}: the file is damaged: reading it {_reason(code, self._seconds)}")

    def _message(self) -> str:
        """What the child writes until it ends or its time is up."""
        content = b""
        while (left := self._deadline - time.monotonic()) > 0:
            if not select.select([self._reader], [], [], left)[0]:
                break
            piece = os.read(self._reader, _MESSAGE)
            if not piece:
                break
            content += piece
        return content.decode(errors="replace")

    def _end(self) -> int:
        """Exit code of the child, negative for a signal; a child that is late is killed."""
        self._done = True
        os.close(self._reader)
        while True:
            pid, status = os.waitpid(self._pid, os.WNOHANG)
            if pid:
                return os.waitstatus_to_exitcode(status)
            if time.monotonic() > self._deadline:
                with contextlib.suppress(ProcessLookupError):
                    os.kill(self._pid, signal.SIGKILL)
                self._late = True
                return os.waitstatus_to_exitcode(os.waitpid(self._pid, 0)[1])
            time.sleep(0.001)

    def __del__(self) -> None:
        if not getattr(self, "_done", True):
            self._deadline = 0.0
            self._end()


@dataclass
class _Task:
    """What a child is to do; it goes to a spawned one as JSON."""

    name: str
    reader: str
    needs: list[str]
    seconds: int
    memory: int


def _resolve(reader: str) -> Callable[[store.Pathlike], None]:
    module, _, function = reader.partition(":")
    found: Callable[[store.Pathlike], None] = getattr(import_module(module), function)
    return found


def examine(path: store.Pathlike) -> None:
    """Read what opening a file reads, and walk the index of the rest; FormatError where that fails."""
    with store.open_file(path) as file, store.reading(path):
        _walk(schema.check(file)[1], [READ], os.path.getsize(path))


def _walk(node: Node, room: list[int], size: int) -> None:
    for dataset in node.arrays.values():
        _touch(dataset, room, size)
    for child in [*node.groups.values(), *(item for items in node.lists.values() for item in items)]:
        _walk(child, room, size)


def _touch(dataset: h5py.Dataset, room: list[int], size: int) -> None:
    if dataset.chunks is not None:

        def visit(chunk: Any) -> None:
            if chunk.byte_offset + chunk.size > size:
                raise InputError(f"{dataset.name[1:]} has a chunk beyond the end of the file")

        dataset.id.chunk_iter(visit)
    if dataset.nbytes <= room[0]:
        room[0] -= dataset.nbytes
        dataset[()]


def _reason(code: int, seconds: int) -> str:
    if code == -signal.SIGXCPU:
        return f"takes over {seconds} s"
    if code < 0:
        return f"crashes the library that reads it ({signal.Signals(-code).name})"
    return f"fails (exit code {code})"


def _can_fork() -> bool:
    """Whether a copy of this process can be trusted to run: on Linux, and as long as there is but one thread."""
    return sys.platform == "linux" and threading.active_count() == 1


def _forked(task: _Task) -> tuple[int, int]:
    reader, writer = os.pipe()
    pid = os.fork()
    if pid:
        os.close(writer)
        return pid, reader
    # The child: nothing of the parent's may run here, so it leaves by os._exit alone.
    code = 1
    try:
        for number in (signal.SIGINT, signal.SIGTERM):
            signal.signal(number, signal.SIG_DFL)
        os.close(reader)
        code = _child(task, writer)
    finally:
        os._exit(code)


def _spawned(task: _Task) -> tuple[int, int]:
    reader, writer = os.pipe()
    places = [os.path.dirname(os.path.dirname(os.path.abspath(store.__file__))), *sys.path]
    code = f"import sys; sys.path[:] = {places!r}; from traces import child; child.main()"
    command = [sys.executable, "-I", "-S", "-c", code, json.dumps(asdict(task)), str(writer)]
    try:
        process = subprocess.Popen(command, pass_fds=[writer], stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL)
    except OSError as error:
        os.close(reader)
        raise InputError(f"{task.name}: no process could be started to check it: {one_line(error)}") from error
    finally:
        os.close(writer)
    # Its end is waited for by number, as that of a forked child is.
    process.returncode = 0
    return process.pid, reader


def main() -> NoReturn:
    """A spawned child: the task and the descriptor for its message are the arguments."""
    os._exit(_child(_Task(**json.loads(sys.argv[1])), int(sys.argv[2])))


def _child(task: _Task, writer: int) -> int:
    _quieten()
    for module in task.needs:
        import_module(module)
    read = _resolve(task.reader)
    _limit(task.seconds, task.memory)
    try:
        read(task.name)
    except InputError as error:
        os.write(writer, one_line(error).encode()[:_MESSAGE])
        return _REFUSED
    return 0


def _quieten() -> None:
    """Crashes are reported by the parent: no traces of C code on the user's screen."""
    import faulthandler

    faulthandler.disable()
    nowhere = os.open(os.devnull, os.O_RDWR)
    for descriptor in (0, 1, 2):
        os.dup2(nowhere, descriptor)


def _limit(seconds: int, memory: int) -> None:
    try:
        import resource
    except ImportError:
        # Only where there are no such limits; the parent's patience still holds.
        return
    limits = {resource.RLIMIT_CPU: (seconds, seconds + 1), resource.RLIMIT_CORE: (0, 0)}
    with contextlib.suppress(OSError), open("/proc/self/statm") as statm:
        top = int(statm.read().split()[0]) * resource.getpagesize() + memory
        limits[resource.RLIMIT_AS] = (top, top)
    for limit, (soft, hard) in limits.items():
        most = resource.getrlimit(limit)[1]
        if most != resource.RLIM_INFINITY:
            soft, hard = min(soft, most), min(hard, most)
        with contextlib.suppress(ValueError, OSError):
            resource.setrlimit(limit, (soft, hard))
