"""Commands around the program itself: warmup, bench."""

from __future__ import annotations

import time
from typing import Annotated

import typer

from fxp.cli import output
from fxp.cli.models import Json


def register(app: typer.Typer) -> None:
    """Add the commands to the program."""
    app.command("warmup")(warmup)
    app.command("bench")(bench)


def warmup(json: Json = False) -> None:
    """Compile all kernels into the cache, so that the next command starts at once.

    Example: fxp warmup
    """
    from fxp import warm

    start = time.perf_counter()
    count = warm.compile_all()
    seconds = time.perf_counter() - start
    if json:
        output.emit_json({"kernels": count, "seconds": seconds})
    else:
        output.console().print(f"{count} kernels ready in {seconds:.1f} s", markup=False)


def bench(
    quick: Annotated[bool, typer.Option("--quick", help="Batch 1 and 16 only, fewer repetitions.")] = False,
    json: Json = False,
) -> None:
    """Measure the speed of the kernels on this machine, beside its instruction peak and memory bandwidth.

    Times are medians of processor time over samples that take turns; the last column is the time over that of 57 %
    low in the same turns. Example: fxp bench --quick
    """
    from fxp import benchmark

    console = output.console()
    result = benchmark.run(quick, progress=None if json else console.print)
    if json:
        output.emit_json(result)
        return
    about = result["machine"]
    output.table(
        f"{about['processor']}, {about['cores']} cores, one thread, sequences of {result['steps']} steps",
        benchmark.COLUMNS, benchmark.table(result),
    )  # fmt: skip
    for line in benchmark.notes(result):
        console.print(line)
