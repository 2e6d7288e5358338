"""The character language model of 512 elements: weights bundled rounded to float16, the model made from them, the data
that of `kjv`. bench/networks/kjv.py trained the network.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np

import traces
from fxp import export
from fxp.networks import halves

METRIC = "bits_per_character"
ORIGIN = "King James text, as printed by Debian's bible-kjv and bible-kjv-text packages"
LICENCE = "the text is in the public domain in most of the world; see LICENCE.md beside the weights"
FOLDER = Path(__file__).with_name("kjv-512")


def model() -> traces.Model:
    """The network, quantised: an embedding of 32, one layer of 512 and a linear head."""
    state = halves.read(FOLDER)
    calibration = traces.Data.read(FOLDER.with_name("kjv") / "calibration.h5")
    network = export.from_state_dict(
        export.select(state, "lstm"),
        [np.asarray(tokens) for tokens in calibration],
        export.readout(export.select(state, "head"), "step"),
        embedding=state["embedding.weight"],
        name="kjv, character language model 1x512",
        metric=METRIC,
        origin=f"trained by bench/networks/kjv.py on: {ORIGIN}",
        licence=LICENCE,
    )
    return network.model
