"""High indices of input weights chosen by what their rounding does to the sums, not each for itself.

Whatever changes here changes the bits of the high path; `docs/calibration.md`, "Rounding".
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from fxp.formats import Formats
from fxp.network import Network
from fxp.observation import as_data, chosen
from fxp.scales import View
from traces import InputError

STEPS = 16_384  # of the data that are looked at, at most
RIDGE = 1e-3  # of the mean square of an input: what keeps unseen combinations of inputs in check


def fit_rounding(network: Network, data: Any, layers: Sequence[int] = (0,)) -> Network:
    """Choose the high index of every input weight so that the errors of a row's products cancel on real inputs.

    Column after column is rounded, those of the largest inputs first, and the columns still to come make its error
    good as far as their inputs go with its own (Babai's nearest plane; GPTQ of Frantar et al., ICLR 2023, is the same).
    Row steps, activations and recurrent weights stay. **The high path changes its bits**, and offset bits of these
    weights return to rounding to nearest.

    Parameters
    ----------
    network : Network
    data : traces.Data (in memory or open), or inputs as `emulate` takes them
        Real inputs; at most 16,384 steps are looked at.
    layers : sequence of int
        The layers whose input weights are rounded anew.

    Returns
    -------
    Network

    Raises
    ------
    InputError
        Data that does not fit the network, or a layer that it does not have.
    """
    for number in layers:
        if not 0 <= number < len(network.layers):
            raise InputError(f"layer {number}: the network has layers 0 to {len(network.layers) - 1}")
    return fitted(network, View(network, chosen(as_data(network, data), STEPS)), layers)


def fitted(network: Network, view: View, layers: Sequence[int]) -> Network:
    """As `fit_rounding`, for a view."""
    made, formats = list(network.layers), network.formats
    for number in layers:
        layer = made[number]
        gain = layer.input_scale if number == 0 else np.float32(1)
        index = np.empty_like(layer.wx_index)
        for d in range(layer.directions):
            with np.errstate(over="ignore"):
                inputs = view.rows(number, d) / gain / layer.x_scale
            inputs = np.rint(np.clip(inputs, -formats.top, formats.top)).astype(np.float64)
            scale = layer.wx_scale[d].astype(np.float64)[:, None]
            weights = (layer.wx_float[d] * gain).astype(np.float64)
            target = np.divide(weights, scale, out=np.zeros_like(weights), where=scale > 0)
            index[d] = rounded(target, inputs.T @ inputs, formats.top)
        made[number] = replace(layer, wx_index=index, wx_offset=nearest_offsets(index, formats))
    model = network.model
    return Network(replace(model, layers=made, calibration={**model.calibration, "offsets": "nearest"}))


def rounded(target: np.ndarray, moments: np.ndarray, top: int) -> np.ndarray:
    """Integers q, int8 [rows, N] within +-top, for which (target - q) moments (target - q)^T is small in every row.

    Sums run in a fixed order, one operation at a time: the same bits on every machine, since the moments are exact.

    Parameters
    ----------
    target : float64 [rows, N]
    moments : float64 [N, N]
        Sums of products of input indices over the steps.
    top : int
    """
    size = len(moments)
    order = np.argsort(np.diag(moments), kind="stable")
    left = moments[np.ix_(order, order)].copy()
    left[np.diag_indices(size)] += RIDGE * float(np.trace(moments)) / size + 1.0
    factor = np.eye(size)
    for j in range(size):  # moments = factor diagonal factor^T
        factor[j + 1 :, j] = left[j + 1 :, j] / left[j, j]
        left[j + 1 :, j + 1 :] -= np.outer(factor[j + 1 :, j], left[j, j + 1 :])
    wanted = target[:, order].copy()
    index = np.zeros(target.shape, np.int8)
    # The error of the columns done so far calls for a change of column j by factor[i, j] times that of each column i.
    for j in reversed(range(size)):
        q = np.clip(np.rint(wanted[:, j]), -top, top)
        index[:, order[j]] = q.astype(np.int8)
        wanted[:, :j] += np.outer(target[:, order[j]] - q, factor[j, :j])
    return index


def nearest_offsets(index: np.ndarray, formats: Formats) -> np.ndarray:
    """Offset bits that round an index to the nearest low one, uint8, as the quantiser sets them."""
    wide = index.astype(np.int32)
    shifted = wide >> formats.shift
    low = np.clip(np.rint(wide / 2.0**formats.shift), -formats.low_top - 1, formats.low_top).astype(np.int32)
    return np.where(shifted < formats.low_top, np.clip(low - shifted, 0, 1), 0).astype(np.uint8)
