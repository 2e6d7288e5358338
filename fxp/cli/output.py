"""What every command prints: results on standard output, progress and errors on standard error."""

from __future__ import annotations

import json
import math
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from traces import InputError


def emit_json(result: Any) -> None:
    """Print a result as JSON and nothing else."""
    text = json.dumps(result, indent=2, default=_plain, allow_nan=False)
    try:
        print(text, flush=True)
    except BrokenPipeError:
        # Without its number, which Typer would answer with exit code 1.
        raise BrokenPipeError from None


def _plain(value: Any) -> Any:
    if hasattr(value, "tolist"):
        return value.tolist()
    return str(value)


class _Output(Console):
    """Leaves a reader that has gone to the program as a whole, where rich would end it with exit code 1."""

    def on_broken_pipe(self) -> None:
        raise BrokenPipeError


def console() -> Console:
    """Standard output; plain text in a pipe."""
    # Names of files are printed as they are: no markup, no emoji.
    return _Output(soft_wrap=not sys.stdout.isatty(), highlight=False, markup=False, emoji=False)


def warn(lines: Sequence[str]) -> None:
    """Print warnings on standard error."""
    for line in lines:
        print(f"warning: {line}", file=sys.stderr)


def table(title: str, columns: Sequence[str], rows: Sequence[Sequence[str]], caption: str = "") -> None:
    """Print a table: the first column is text, all others numbers."""
    out = Table(title=title, title_justify="left", caption=caption or None, caption_justify="left")
    for number, column in enumerate(columns):
        out.add_column(column, justify="left" if number == 0 else "right", no_wrap=True)
    for row in rows:
        out.add_row(*row)
    screen = console()
    if not sys.stdout.isatty():
        screen.width = 200
    screen.print(out)


def number(value: float | None, digits: int = 4, sign: bool = False) -> str:
    """A number for a table, or a dash: decimals, or significant digits where decimals would say nothing."""
    if value is None or (isinstance(value, float) and math.isnan(value)):
        return "-"
    plus = "+" if sign else ""
    if 0 < abs(value) < 0.001:
        return f"{value:{plus}.3g}"
    return f"{value:{plus}.{digits}f}"


def percent(value: float | None, sign: bool = False) -> str:
    """A share for a table, or a dash."""
    return "-" if value is None else f"{100 * value:{'+' if sign else ''}.1f} %"


def share(option: str, text: str) -> float:
    """A number, or a percentage, that a user gave; InputError for anything else."""
    bare = text.strip().removesuffix("%")
    try:
        value = float(bare)
    except ValueError:
        raise InputError(f"{option} is {text!r}: expected a number such as 0.6, or a percentage such as 60%") from None
    return value / 100 if bare != text.strip() else value


def interval(bounds: tuple[float, float] | None, digits: int = 4) -> str:
    """An interval for a table, or a dash."""
    return "-" if bounds is None else f"[{number(bounds[0], digits, True)}, {number(bounds[1], digits, True)}]"


@contextmanager
def naming(*paths: Path) -> Iterator[None]:
    """Put the first path before an InputError that names none of them."""
    try:
        yield
    except InputError as error:
        if any(str(path) in str(error) for path in paths):
            raise
        raise InputError(f"{paths[0]}: {error}") from None


def keep(destination: Path | None, *sources: Path) -> None:
    """Raises InputError where an output would replace a file that it is made from."""
    for source in sources:
        if destination is not None and destination.exists() and source.exists() and destination.samefile(source):
            raise InputError(f"{destination}: is an input of this command; choose another path for the output")


def notice(text: str) -> None:
    """A line on standard error."""
    print(f"fxp: {text}", file=sys.stderr, flush=True)


LINES = 10.0  # seconds between the lines of a progress in a pipe


def _lines(what: str, total: int) -> Callable[[int], None]:
    """Progress in lines on standard error, one every few seconds."""
    begin = said = time.monotonic()
    done, lock = 0.0, threading.Lock()

    def advance(steps: float) -> None:
        nonlocal done, said
        with lock:
            done += steps
            now = time.monotonic()
            if now - said >= LINES:
                said, rate = now, done / (now - begin)
                left = max(0, round((total - done) / rate))
                notice(f"{what}: {done / total:.0%}, {rate:,.0f} steps/s, {left // 60}:{left % 60:02} left")

    return advance


@contextmanager
def progress(what: str, total: int, quiet: bool, lines: bool = False) -> Iterator[Callable[[int], None] | None]:
    """Progress in steps: a bar on a terminal; in a pipe, or with `quiet`, `lines` on standard error or nothing."""
    if quiet or not sys.stderr.isatty():
        yield _lines(what, total) if lines else None
        return
    from rich.progress import BarColumn, Progress, TaskProgressColumn, TextColumn, TimeRemainingColumn

    bar = Progress(
        TextColumn("{task.description}"), BarColumn(), TaskProgressColumn(),
        TextColumn("{task.fields[rate]}"), TimeRemainingColumn(),
        console=Console(stderr=True), transient=True,
    )  # fmt: skip
    with bar:
        task = bar.add_task(what, total=total, rate="")

        def advance(steps: int) -> None:
            bar.advance(task, steps)
            speed = bar.tasks[0].speed
            if speed:
                bar.update(task, rate=f"{speed:,.0f} steps/s")

        yield advance


@contextmanager
def stages(quiet: bool) -> Iterator[Callable[[str], None]]:
    """A line on a terminal that says what is being done; nothing in a pipe or with `quiet`."""
    if quiet or not sys.stderr.isatty():
        yield lambda stage: None
        return
    with Console(stderr=True, markup=False, highlight=False).status("reading") as status:
        yield status.update
