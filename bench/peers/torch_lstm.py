"""PyTorch: `torch.nn.LSTM` in float32, and its dynamically quantised int8 form."""

from __future__ import annotations

import warnings
from collections.abc import Callable

import numpy as np
import torch


def lstm(hidden: int) -> torch.nn.LSTM:
    """A layer with PyTorch's own initial weights, seeded."""
    torch.manual_seed(hidden)
    return torch.nn.LSTM(hidden, hidden).eval()


def inputs(hidden: int, batch: int, steps: int) -> torch.Tensor:
    """float32 [steps, batch, hidden], normal."""
    return torch.randn(steps, batch, hidden, generator=torch.Generator().manual_seed(batch))


def modules(hidden: int) -> dict[str, torch.nn.Module]:
    torch.set_num_threads(1)
    layer = lstm(hidden)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        dynamic = torch.ao.quantization.quantize_dynamic(torch.nn.Sequential(layer), {torch.nn.LSTM}, dtype=torch.qint8)
    return {"torch float32": layer, "torch dynamic int8": dynamic}


def functions(hidden: int) -> dict[str, Callable[[np.ndarray], np.ndarray]]:
    """Functions from float32 [steps, batch, hidden] to h of the same shape."""

    def whole(module: torch.nn.Module) -> Callable[[np.ndarray], np.ndarray]:
        def process(x: np.ndarray) -> np.ndarray:
            with torch.inference_mode():
                return module(torch.from_numpy(x))[0].numpy()

        return process

    return {name: whole(module) for name, module in modules(hidden).items()}


def prepare(hidden: int, batch: int, steps: int) -> dict[str, Callable[[], object]]:
    x = inputs(hidden, batch, steps)

    def timed(module: torch.nn.Module) -> Callable[[], object]:
        def process() -> object:
            with torch.inference_mode():
                return module(x)[0].numpy()

        return process

    return {name: timed(module) for name, module in modules(hidden).items()}


def version() -> str:
    return f"torch {torch.__version__}"
