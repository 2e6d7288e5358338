"""One page about a run: what ran, what it cost in quality, where precision was low, what that buys."""

from fxp.report.drawing import draw, parts_of
from fxp.report.material import Material, assemble, gather
from fxp.report.page import write

__all__ = ["Material", "assemble", "draw", "gather", "parts_of", "write"]
