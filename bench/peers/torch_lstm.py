"""PyTorch: `torch.nn.LSTM` in float32, and its dynamically quantised int8 form."""

from __future__ import annotations

import warnings
from collections.abc import Callable

import torch


def lstm(hidden: int) -> torch.nn.LSTM:
    """A layer with PyTorch's own initial weights, seeded."""
    torch.manual_seed(hidden)
    return torch.nn.LSTM(hidden, hidden).eval()


def inputs(hidden: int, batch: int, steps: int) -> torch.Tensor:
    """float32 [steps, batch, hidden], normal."""
    return torch.randn(steps, batch, hidden, generator=torch.Generator().manual_seed(batch))


def prepare(hidden: int, batch: int, steps: int) -> dict[str, Callable[[], object]]:
    torch.set_num_threads(1)
    layer, x = lstm(hidden), inputs(hidden, batch, steps)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        dynamic = torch.ao.quantization.quantize_dynamic(torch.nn.Sequential(layer), {torch.nn.LSTM}, dtype=torch.qint8)

    def timed(module: torch.nn.Module) -> Callable[[], object]:
        def process() -> object:
            with torch.inference_mode():
                return module(x)[0].numpy()

        return process

    return {"torch float32": timed(layer), "torch dynamic int8": timed(dynamic)}


def version() -> str:
    return f"torch {torch.__version__}"
