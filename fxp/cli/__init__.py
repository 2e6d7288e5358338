"""The command line. Importing it loads next to nothing, so that an interrupt is understood from the beginning."""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

INTERRUPTED = 128  # plus the number of the signal


def __getattr__(name: str) -> Any:
    if name == "app":
        from fxp.cli.program import app

        return app
    raise AttributeError(f"module 'fxp.cli' has no attribute {name!r}")


def main(arguments: list[str] | None = None) -> None:
    """Run a command. Exit codes: 0 done, 2 bad input, 1 a fault of the program, 130 interrupted (143 terminated)."""
    received: list[int] = []
    code = 0
    try:
        with _handled(received):
            code = _run(arguments)
    except KeyboardInterrupt:
        code = INTERRUPTED + signal.SIGINT
    if received:
        code = INTERRUPTED + received[0]
    if code > INTERRUPTED:
        _fail("interrupted; nothing half-written was left", code)
    sys.exit(code)


@contextmanager
def _handled(received: list[int]) -> Iterator[None]:
    """Let the signals that ask a program to end do so like Ctrl-C; more of them change nothing."""
    previous: dict[int, Any] = {}

    def interrupt(number: int, frame: Any) -> None:
        received.append(number)
        if len(received) == 1:
            raise KeyboardInterrupt

    try:
        for name in ("SIGINT", "SIGTERM", "SIGHUP"):
            if hasattr(signal, name) and signal.getsignal(getattr(signal, name)) not in (signal.SIG_IGN, None):
                number = getattr(signal, name)
                previous[number] = signal.signal(number, interrupt)
    except ValueError:
        pass  # not in the main thread, which alone gets signals
    try:
        yield
    finally:
        for number, handler in previous.items():
            signal.signal(number, handler)


def _run(arguments: list[str] | None) -> int:
    import typer

    from fxp.cli.program import USAGE_ERROR, app
    from traces import InputError

    try:
        # Typer catches an interrupt itself and returns its exit code.
        code = app(args=arguments, prog_name="fxp", standalone_mode=False)
        return code if isinstance(code, int) else 0
    except InputError as error:
        return _fail(str(error), 2)
    except USAGE_ERROR as error:
        if type(error).__name__ == "NoArgsIsHelpError":
            error.show()  # type: ignore[attr-defined]
            return 2
        return _fail(f"{error.format_message()} (see --help)", 2)  # type: ignore[attr-defined]
    except (KeyboardInterrupt, typer.Abort):
        return INTERRUPTED + signal.SIGINT
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
