"""Threads that share work: teams that process the same sequences, each thread on a processor of its own."""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Sequence
from concurrent.futures import FIRST_EXCEPTION, CancelledError, Executor, Future, ThreadPoolExecutor, wait
from dataclasses import dataclass, field
from itertools import count
from pathlib import Path

_this_thread = threading.local()


def pool_of(threads: int) -> ThreadPoolExecutor:
    """A pool whose threads have numbers from 0 on; of two such pools that two of them make, the numbers differ."""
    first = threads * _number()
    numbers = count(first)

    def begin() -> None:
        _this_thread.number = next(numbers)

    return ThreadPoolExecutor(threads, initializer=begin)


def _number() -> int:
    return getattr(_this_thread, "number", 0)


def finish(futures: Sequence[Future[None]]) -> None:
    """Wait for all, or until one fails; raises why it failed, not that others were told to stop because of it."""
    pending, stopped = set(futures), None
    while pending:
        done, pending = wait(pending, return_when=FIRST_EXCEPTION)
        for future in futures:
            error = future.exception() if future in done else None
            if isinstance(error, CancelledError):
                stopped = error
            elif error is not None:
                raise error
    if stopped is not None:
        raise stopped


def processors() -> int:
    """How many processors this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def _processor() -> int | None:
    """The processor that this thread runs on, where the system (Linux) tells."""
    try:
        return int(Path("/proc/thread-self/stat").read_text().rpartition(")")[2].split()[36])
    except (OSError, ValueError, IndexError):
        return None


def _move(here: int | None, steps: int) -> None:
    """Put this thread on the processor `steps` after `here` among those allowed; the system may move it again."""
    if here is None or not hasattr(os, "sched_setaffinity"):
        return
    allowed = sorted(os.sched_getaffinity(0))
    if len(allowed) < 2 or here not in allowed:
        return
    try:
        os.sched_setaffinity(0, {allowed[(allowed.index(here) + steps) % len(allowed)]})
        os.sched_setaffinity(0, allowed)
    except OSError:
        pass  # a processor that is not there any more: it is only for speed


@dataclass(frozen=True)
class Team:
    """`size` threads: the one that calls, of `pool_of`, and others of a pool that must have that many to spare.

    Python's threads wake each other up as they pass the interpreter's lock on, and the system then likes to have both
    on one processor, for longer than a short emulation takes. So each is put on its own just before it begins.
    """

    size: int
    pool: Executor | None = None
    here: int | None = field(default_factory=_processor)

    def run(self, work: Callable[[int], None], give_up: Callable[[], None]) -> None:
        """Call `work` with each rank below `size`, all at once.

        give_up : called when one of them cannot be: no other may go on waiting for it then
        """
        first = self.size * _number()

        def one(rank: int) -> None:
            try:
                _move(self.here, first + rank)
                work(rank)
            except BaseException:
                give_up()
                raise

        others = []
        try:
            for rank in range(1, self.size):
                assert self.pool is not None
                others.append(self.pool.submit(one, rank))
            one(0)
        except BaseException:
            give_up()
            raise
        finally:
            for other in others:
                other.exception()
        for other in others:
            other.result()
