"""Every code block of the README and of the documentation runs, page by page, and the site builds without a warning.

A page's blocks run in their order in one empty folder: `python` blocks share their names, `sh` blocks run in bash. A block that
cannot run inside the tests is preceded by `<!-- not run: REASON -->`.
"""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

import accel

ROOT = Path(__file__).parents[1]
PAGES = sorted([ROOT / "README.md", *(ROOT / "docs").rglob("*.md")])
BLOCK = re.compile(r"^( *)(?P<fence>```+|~~~+)(?P<language>[\w-]*)[^\n]*\n(?P<code>.*?)^ *(?P=fence) *$", re.M | re.S)
REASON = re.compile(r"<!-- not run: ([^>]{10,}) -->\s*\Z")
EXECUTED = {"python", "sh"}
KNOWN = EXECUTED | {"yaml", "text"}


def blocks(page):
    """(language, code, line, reason not to run it) of every fenced block of a page."""
    text = page.read_text(encoding="utf-8")
    for match in BLOCK.finditer(text):
        reason = REASON.search(text[: match.start()])
        line = text.count("\n", 0, match.start("code"))
        yield match["language"], match["code"], line, reason and reason[1]


RUNNABLE = [page for page in PAGES if any(kind in EXECUTED and not why for kind, _, _, why in blocks(page))]


def name(page):
    return str(page.relative_to(ROOT))


@pytest.mark.parametrize("page", PAGES, ids=name)
def test_a_page_marks_its_blocks(page):
    """No block escapes by having no language, or one that nothing checks; fences are paired."""
    for language, _, line, _ in blocks(page):
        assert language in KNOWN, f"{name(page)}:{line}: a block of language {language!r}"
    fences = re.findall(r"^ *```", page.read_text(encoding="utf-8"), re.M)
    assert len(fences) == 2 * sum(1 for _ in blocks(page))


@pytest.mark.parametrize("page", RUNNABLE, ids=name)
def test_the_blocks_of_a_page_run(page, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    names = {"__name__": "__page__"}
    binaries = str(Path(sys.executable).parent)
    environment = os.environ | {"PATH": binaries + os.pathsep + os.environ["PATH"], "COLUMNS": "100"}
    for language, code, line, reason in blocks(page):
        where = f"{name(page)}:{line}"
        if reason:
            continue
        if language == "python":
            exec(compile("\n" * line + code, where, "exec"), names)
        elif language == "sh":
            done = subprocess.run(
                ["bash", "-euo", "pipefail", "-c", code], env=environment, capture_output=True, text=True, timeout=300
            )
            assert done.returncode == 0, f"{where}: exit {done.returncode}\n{done.stdout}\n{done.stderr}"
        elif language == "yaml" and "extends:" in code:
            (tmp_path / "block.yaml").write_text(code)
            accel.Machine.load(tmp_path / "block.yaml")


def test_the_site_builds_without_a_warning(tmp_path):
    command = [sys.executable, "-m", "mkdocs", "build", "--strict", "--site-dir", str(tmp_path / "site")]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stdout + done.stderr
    assert (tmp_path / "site" / "tutorials" / "export" / "index.html").exists()
    assert "fxp run" in (tmp_path / "site" / "reference" / "cli" / "index.html").read_text()
