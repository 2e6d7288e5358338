"""The command line. Importing it loads neither Numba nor torch; each command imports what it needs."""

from __future__ import annotations

import os
import sys

import typer

from fxp import __version__
from fxp.cli import accelerator, calibrate, inspect, models, networks, runs, service
from traces import InputError

# Typer has carried its own copy of click since 0.28, so the base of its errors is found through one of them.
USAGE_ERROR: type[Exception] = next(
    kind for kind in typer.BadParameter.__mro__ if kind.__name__ == "ClickException" and issubclass(kind, Exception)
)

INTERRUPTED = 130  # exit code; Typer catches the interrupt itself and returns the code

app = typer.Typer(
    name="fxp",
    help="How few bits does an LSTM need, when, and what does that buy in silicon?",
    no_args_is_help=True,
    add_completion=False,
    rich_markup_mode="rich",
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)


def _version(value: bool) -> None:
    if value:
        print(f"fxp-lstm {__version__}")
        raise typer.Exit


@app.callback()
def _root(
    version: bool = typer.Option(
        False, "--version", callback=_version, is_eager=True, help="Print the version and exit."
    ),
) -> None:
    pass


for module in (models, calibrate, runs, accelerator, inspect, service, networks):
    module.register(app)


def main(arguments: list[str] | None = None) -> None:
    """Run a command. Exit codes: 0 done, 2 bad input, 1 a fault of the program, 130 interrupted."""
    sys.exit(_run(arguments))


def _run(arguments: list[str] | None) -> int:
    try:
        code = app(args=arguments, prog_name="fxp", standalone_mode=False)
        if code == INTERRUPTED:
            return _fail("interrupted; nothing half-written was left", INTERRUPTED)
        return code if isinstance(code, int) else 0
    except InputError as error:
        return _fail(str(error), 2)
    except USAGE_ERROR as error:
        if type(error).__name__ == "NoArgsIsHelpError":
            error.show()  # type: ignore[attr-defined]
            return 2
        return _fail(f"{error.format_message()} (see --help)", 2)  # type: ignore[attr-defined]
    except (KeyboardInterrupt, typer.Abort):
        return _fail("interrupted; nothing half-written was left", INTERRUPTED)
    except BrokenPipeError:
        # The reader of a pipe has gone; that is its right, and nothing may be printed any more.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    except MemoryError:
        return _fail("out of memory: give fewer or shorter sequences, or record less", 2)
    except Exception as error:
        if os.environ.get("FXP_TRACEBACK"):
            raise
        return _fail(f"internal fault: {type(error).__name__}: {error} (FXP_TRACEBACK=1 shows where)", 1)


def _fail(message: str, code: int) -> int:
    print(f"fxp: {' '.join(message.split())}", file=sys.stderr)
    return code
