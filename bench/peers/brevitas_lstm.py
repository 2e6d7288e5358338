"""Brevitas: `QuantLSTM` with its defaults (8 bits), a simulation in float32. Batch 1 and H = 128 only: it is slow."""

from __future__ import annotations

from collections.abc import Callable

import brevitas
import torch
from brevitas.nn import QuantLSTM

from bench.peers import torch_lstm


def prepare(hidden: int, batch: int, steps: int) -> dict[str, Callable[[], object]]:
    if batch > 1 or hidden > 128:
        return {}
    torch.manual_seed(hidden)
    layer = QuantLSTM(hidden, hidden).eval()
    x = torch_lstm.inputs(hidden, batch, steps)

    def process() -> object:
        with torch.no_grad():
            return layer(x)[0]

    return {"Brevitas QuantLSTM": process}


def version() -> str:
    return f"brevitas {brevitas.__version__}"
