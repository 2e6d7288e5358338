"""The page: one HTML file that needs nothing else."""

from __future__ import annotations

import base64
import hashlib
import os
from importlib.resources import files
from pathlib import Path

from fxp import __version__
from fxp.report import sections
from fxp.report.markup import text
from fxp.report.material import Material
from traces import InputError


def _asset(name: str) -> str:
    return files("fxp.report").joinpath(name).read_text(encoding="utf-8").strip()


def _allowed(content: str) -> str:
    """The hash by which the page's own policy names one script or style."""
    return "'sha256-" + base64.b64encode(hashlib.sha256(content.encode()).digest()).decode() + "'"


def render(material: Material) -> str:
    """The page as text."""
    style, script = _asset("page.css"), _asset("page.js")
    # Nothing is fetched, and of all scripts only this one runs, whatever the files say.
    policy = f"default-src 'none'; img-src data:; style-src 'unsafe-inline'; script-src {_allowed(script)}"
    parts = sections.every(material)
    links = "".join(f'<li><a href="#{identity}">{text(title)}</a></li>' for identity, title, _ in parts if title)
    return f"""<!DOCTYPE html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta http-equiv="Content-Security-Policy" content="{policy}">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>{text(material.title)}: precision report</title>
<style>{style}</style>
</head>
<body>
<a class="skip" href="#main">Skip to the report</a>
<header>
{sections.head(material)}
<nav aria-label="Sections"><ul>{links}</ul></nav>
</header>
<main id="main">
{"".join(body for _, _, body in parts)}
</main>
<footer><p>Made by fxp-lstm {text(__version__)}. Every number was computed from the files named above.</p></footer>
<script>{script}</script>
</body>
</html>
"""


def write(material: Material, path: str | os.PathLike[str]) -> None:
    """Write the page; what stood at the path is replaced only once the page is complete.

    Raises
    ------
    InputError
        The path cannot be written.
    """
    content = render(material)
    target = Path(path)
    aside = target.with_name(f".{target.name}-{os.getpid()}")
    try:
        aside.write_text(content, encoding="utf-8")
        os.replace(aside, target)
    except OSError as error:
        raise InputError(f"{path}: cannot be written: {error.strerror}") from None
    finally:
        aside.unlink(missing_ok=True)
