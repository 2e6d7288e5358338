"""Commands around the program itself: warmup."""

from __future__ import annotations

import time

import typer

from fxp.cli import output
from fxp.cli.models import Json


def register(app: typer.Typer) -> None:
    """Add the commands to the program."""
    app.command("warmup")(warmup)


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
