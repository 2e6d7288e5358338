"""The sheet that figures are drawn on: size, type, colours; saved to a file or as SVG for a page."""

from __future__ import annotations

import html
import io
import os
import re
from pathlib import Path
from typing import Any

from matplotlib import rc_context
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.ticker import PercentFormatter

from traces import InputError

INK, MUTED, RULE, PAPER = "#1d2329", "#57606a", "#d5dae0", "#ffffff"
HIGH, LOW = "#b83a12", "#2b6ca3"
SERIES = ("#2b6ca3", "#b83a12", "#3f7d4e", "#8a5a9e", "#a36a00", "#5a6570", "#1f7f86", "#a8456d", "#6b6b1f")
"""Colours for parts of a whole; each has a contrast of at least 4.5 with paper."""
WIDTH = 4.5
"""Inches: on a phone the type then has about its own size."""

_SETTINGS: Any = {
    "font.family": "sans-serif", "font.size": 10, "axes.titlesize": 10, "axes.labelsize": 10,
    "xtick.labelsize": 9.5, "ytick.labelsize": 9.5, "legend.fontsize": 9.5,
    "text.color": INK, "axes.labelcolor": INK, "axes.edgecolor": MUTED, "axes.titlecolor": INK,
    "xtick.color": MUTED, "ytick.color": MUTED, "xtick.labelcolor": MUTED, "ytick.labelcolor": MUTED,
    "axes.spines.top": False, "axes.spines.right": False, "axes.linewidth": 0.8, "axes.axisbelow": True,
    "grid.color": RULE, "grid.linewidth": 0.8, "legend.frameon": False, "legend.borderaxespad": 0.2,
    "svg.fonttype": "none", "svg.hashsalt": "fxp", "figure.facecolor": PAPER, "axes.facecolor": "none",
}  # fmt: skip


def sheet(height: float = 2.9, left: float = 0.62, top: float = 0.52, width: float = WIDTH) -> tuple[Figure, Axes]:
    """An empty figure and its axes.

    Margins are set, not fitted: figures below each other then line up, and dozens are drawn in little time.

    Parameters
    ----------
    height, width : inches
    left, top : inches
        Margins: the left one holds the labels of the values, the top one title and legend.
    """
    with rc_context(_SETTINGS):
        figure = Figure(figsize=(width, height))
        FigureCanvasAgg(figure)
        axes = figure.add_axes((left / width, 0.48 / height, 1 - (left + 0.22) / width, 1 - (0.48 + top) / height))
    return figure, axes


def percent_axis(axis: Any, whole: float = 1.0) -> None:
    """Shares as percentages, on the whole scale."""
    axis.set_major_formatter(PercentFormatter(whole, decimals=0))


def headed(axes: Axes, title: str, legend: bool = True) -> None:
    """A title flush left, with room for a legend below it."""
    axes.set_title(title, loc="left", pad=22 if legend else 8, fontsize=_SETTINGS["axes.titlesize"], color=INK)


def legend_above(axes: Axes, columns: int = 3, **options: Any) -> None:
    """A legend between title and axes, clear of the data."""
    with rc_context(_SETTINGS):
        axes.legend(
            loc="lower left", bbox_to_anchor=(0, 1), ncols=columns, borderaxespad=0.3, borderpad=0.1, handlelength=1.1,
            columnspacing=0.8, handletextpad=0.4, **options,
        )  # fmt: skip


def save(figure: Figure, path: str | os.PathLike[str]) -> None:
    """Write a figure; a picture that stood there is replaced only once the new one is complete.

    Parameters
    ----------
    path : .pdf, .png or .svg

    Raises
    ------
    InputError
        Another suffix, or a path that cannot be written.
    """
    target = Path(path)
    if target.suffix.lower() not in (".pdf", ".png", ".svg"):
        raise InputError(f"{path}: a figure is written as .pdf, .png or .svg")
    aside = target.with_name(f".{target.stem}-{os.getpid()}{target.suffix}")
    # Without a date, equal figures are equal files.
    undated = {"Date": None} if target.suffix.lower() == ".svg" else {"CreationDate": None}
    metadata = {} if target.suffix.lower() == ".png" else undated
    try:
        with rc_context(_SETTINGS):
            figure.savefig(aside, dpi=200, metadata=metadata)
        os.replace(aside, target)
    except (OSError, ValueError) as error:
        raise InputError(f"{path}: cannot be written: {getattr(error, 'strerror', None) or error}") from None
    finally:
        aside.unlink(missing_ok=True)


_VARIABLES = {INK: "--ink", MUTED: "--muted", RULE: "--rule", PAPER: "--paper", HIGH: "--high", LOW: "--low"}

_COORDINATE = re.compile(r"(?<![\w#/+.-])-?\d+\.\d{3,}")


def _shortened(number: re.Match[str]) -> str:
    return f"{float(number[0]):.2f}".rstrip("0").rstrip(".")


def svg(figure: Figure, key: str, alternative: str) -> str:
    """A figure as an SVG element for a page.

    It refers to nothing outside, takes type and colours from the page's style sheet (so that it follows a dark
    one), and its ids begin with `key`, so that many fit on one page.

    Parameters
    ----------
    key : distinct for every figure of the page
    alternative : what it shows, for those who cannot see it
    """
    buffer = io.StringIO()
    with rc_context({**_SETTINGS, "svg.hashsalt": key}):
        figure.savefig(buffer, format="svg", transparent=True, metadata={"Date": None})
    text = buffer.getvalue()
    text = text[text.index("<svg") :]
    text = re.sub(r"<metadata>.*?</metadata>|<!--.*?-->|<\?.*?\?>", "", text, flags=re.DOTALL)
    text = re.sub(r"<style type=\"text/css\">.*?</style>", "", text, flags=re.DOTALL)
    text = text.replace("xlink:href", "href")
    used = set(re.findall(r"(?:href=\"#|url\(#)([^\")]+)", text))
    text = re.sub(r" id=\"([^\"]+)\"", lambda m: f' id="{key}-{m[1]}"' if m[1] in used else "", text)
    text = re.sub(r"(href=\"#|url\(#)", rf"\g<1>{key}-", text)
    text = re.sub(r"font: (?:\w+ )*([\d.]+)px [^;\"]*", r"font-size: \1px", text)
    # Coordinates, which stand inside of tags, need no more than a hundredth of a point; labels stay as they are.
    text = re.sub(r"<[^>]*>", lambda tag: _COORDINATE.sub(_shortened, tag[0]), text)
    for colour, name in _VARIABLES.items():
        text = re.sub(rf"(?<=: ){colour}", f"var({name})", text)
    text = re.sub(r"\s*\n\s*", "\n", re.sub(r"<g>\s*</g>", "", text))
    box = re.search(r'viewBox="([^"]*)"', text)
    assert box is not None
    text = text[text.index(">", text.index("<svg")) + 1 :]
    label = html.escape(alternative, quote=True)
    return f'<svg class="figure" viewBox="{box[1]}" role="img" aria-label="{label}">{text}'
