"""Pages that MkDocs makes while it builds: the command line's own help, so that it cannot grow old."""

from __future__ import annotations

import os
from typing import Any

from mkdocs.structure.files import File, Files
from typer.main import get_command
from typer.testing import CliRunner

from fxp.cli import app


def on_files(files: Files, config: Any) -> Files:
    files.append(File.generated(config, "reference/cli.md", content=command_line()))
    return files


def command_line() -> str:
    """The help of every command, as Markdown."""
    os.environ.update(COLUMNS="100", NO_COLOR="1", TERM="dumb")
    runner = CliRunner()
    root: Any = get_command(app)
    pages = [
        "# Command line\n",
        "Exit codes: 0 done, 2 bad input, 1 a fault of the program, 130 interrupted; `fxp diff` adds 3, they differ.\n",
    ]
    for path in [[], *paths(root)]:
        text = runner.invoke(app, [*path, "--help"]).output
        body = "\n".join(line.rstrip() for line in text.strip("\n").splitlines())
        pages.append(f"## fxp {' '.join(path)}\n\n```text\n{body}\n```\n")
    return "\n".join(pages)


def paths(group: Any, above: tuple[str, ...] = ()) -> list[list[str]]:
    """The words of every command, subcommands after their group."""
    found: list[list[str]] = []
    for name, command in group.commands.items():
        found.append([*above, name])
        if hasattr(command, "commands"):
            found += paths(command, (*above, name))
    return found
