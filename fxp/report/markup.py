"""Pieces of HTML. Text goes through `text`; everything else is made here."""

from __future__ import annotations

import html
from collections.abc import Iterable, Sequence
from typing import Any


def text(value: Any) -> str:
    """Text of whatever origin, harmless in content and attributes; control characters become spaces."""
    return html.escape("".join(c if c.isprintable() or c == "\u00a0" else " " for c in str(value)), quote=True)


def table(caption: str, columns: Sequence[str], rows: Iterable[Sequence[str]], marked: int | None = None) -> str:
    """A table that scrolls sideways by itself where it is too wide; the first column names the rows."""
    head = "".join(f'<th scope="col">{text(column)}</th>' for column in columns)
    body = "".join(
        f'<tr{" class=this" if number == marked else ""}><th scope="row">{text(row[0])}</th>'
        + "".join(f"<td>{text(cell)}</td>" for cell in row[1:])
        + "</tr>"
        for number, row in enumerate(rows)
    )
    return (
        f'<div class="scroll" tabindex="0" role="region" aria-label="{text(caption)}"><table>'
        f"<caption>{text(caption)}</caption><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table></div>"
    )


def figure(svg: str, caption: str = "", numbers: str = "") -> str:
    """A drawing with its caption, and its numbers behind a fold."""
    folded = f"<details><summary>Numbers</summary>{numbers}</details>" if numbers else ""
    described = f"<figcaption>{text(caption)}</figcaption>" if caption else ""
    return f"<figure>{svg}{described}</figure>{folded}"


def panel(body: str, kind: str = "panel", **keys: int) -> str:
    """A piece that is shown while the controls stand at its keys."""
    data = "".join(f' data-{name}="{int(value)}"' for name, value in keys.items())
    return f'<div class="{kind}"{data}>{body}</div>'


def section(identity: str, title: str, *body: str) -> str:
    """A titled part of the page."""
    return (
        f'<section id="{identity}" aria-labelledby="{identity}-title"><h2 id="{identity}-title">{text(title)}</h2>'
        + "".join(body)
        + "</section>"
    )


def paragraph(content: str, kind: str = "") -> str:
    """A paragraph of plain text."""
    return f"<p{f' class={kind}' if kind else ''}>{text(content)}</p>"


def missing(what: str, *options: str) -> str:
    """Says which options would provide what a section lacks."""
    how = " or ".join(f"<code>{text(option)}</code>" for option in options)
    return f'<p class="missing">{text(what)} Give {how}.</p>'


def facts(pairs: Iterable[tuple[str, str]], kind: str = "facts") -> str:
    """Names and values."""
    entries = "".join(
        f"<dt>{text(name)}</dt><dd{' class=digest' if name.endswith('digest') else ''}>{text(value)}</dd>"
        for name, value in pairs
    )
    return f'<dl class="{kind}">{entries}</dl>'
