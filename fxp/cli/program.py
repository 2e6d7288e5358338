"""The program: its options and commands."""

from __future__ import annotations

import typer

from fxp import __version__
from fxp.cli import accelerator, calibrate, finetune, inspect, models, networks, runs, service

# Typer has carried its own copy of click since 0.28, so the base of its errors is found through one of them.
USAGE_ERROR: type[Exception] = next(
    kind for kind in typer.BadParameter.__mro__ if kind.__name__ == "ClickException" and issubclass(kind, Exception)
)

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


for module in (models, calibrate, finetune, runs, accelerator, inspect, service, networks):
    module.register(app)
