"""Figures of a run: the same ones in `fxp plot` and in `fxp report`. Each function returns a matplotlib figure."""

from fxp.figures.canvas import save, svg
from fxp.figures.costs import cycles, energy
from fxp.figures.errors import phase_errors
from fxp.figures.precision import dwell, precision, share_by_element, share_by_layer, share_by_position
from fxp.figures.shares import loss_against_share
from fxp.figures.states import cell_state

__all__ = [
    "cell_state", "cycles", "dwell", "energy", "loss_against_share", "phase_errors", "precision", "save",
    "share_by_element", "share_by_layer", "share_by_position", "svg",
]  # fmt: skip
