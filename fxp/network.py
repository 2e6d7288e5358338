"""A quantised network, ready to emulate."""

from __future__ import annotations

import os
from functools import cached_property
from typing import Any

import numpy as np

import traces
from fxp.formats import Formats


class Network:
    """A quantised network.

    `layers[l]` (`traces.Layer`) holds the stored arrays, directions first: `wx_index`, `wh_index` (int8 [D, 4H, N] and
    [D, 4H, R]), `wx_offset`, `wh_offset` (0 or 1), `wx_scale`, `wh_scale`, `bias`, `low_bias` (float32 [D, 4H]),
    `x_scale`,
    `h_scale`, `input_scale` and the float weights they come from.

    Parameters
    ----------
    model : traces.Model
    """

    def __init__(self, model: traces.Model):
        model.validate()
        self.model = model
        self.formats = Formats(
            model.high, model.low, model.profile, model.accumulator_bits, model.overflow, model.granularity
        )
        self.engines: dict[Any, Any] = {}  # those made for this network (`fxp.engines.make`)

    def __getattr__(self, name: str) -> Any:
        if name in ("model", "formats", "engines") or name.startswith("__"):
            raise AttributeError(name)
        return getattr(self.model, name)

    def __getstate__(self) -> dict[str, Any]:
        # What is prepared for the kernels holds addresses, so a copy prepares its own.
        return {"model": self.model, "formats": self.formats, "engines": {}}

    def __repr__(self) -> str:
        sizes = ", ".join(
            f"{n.input_size}->{n.hidden_size}{' x2' if n.directions == 2 else ''}" for n in self.model.layers
        )
        return f"Network({sizes}; {self.model.high}/{self.model.low} bits, {self.model.profile})"

    @property
    def layers(self) -> list[traces.Layer]:
        """Stored layers, input side first."""
        return self.model.layers

    @cached_property
    def directions(self) -> int:
        """2 if the network is bidirectional, else 1."""
        return max(layer.directions for layer in self.model.layers)

    @property
    def features(self) -> int:
        """Input features of the first layer."""
        return self.model.layers[0].input_size

    @property
    def outputs(self) -> int:
        """Outputs of the last layer, both directions together."""
        last = self.model.layers[-1]
        return last.directions * last.output_size

    def dequantised(self, hidden: np.ndarray, out: np.ndarray | None = None) -> np.ndarray:
        """Outputs float32 of h indices int8 of the last layer (`docs/numerics.md`, 4.4), into `out` if given."""
        return np.multiply(hidden, np.float32(self.model.layers[-1].h_scale), out=out, dtype=np.float32)

    @cached_property
    def digest(self) -> str:
        """SHA-256 over the stored arrays (hex)."""
        return self.model.digest()

    @cached_property
    def prepared(self) -> list[Any]:
        """Kernel arguments of every layer."""
        from fxp.prepare import PreparedLayer

        return [PreparedLayer(layer, self.formats) for layer in self.model.layers]


def save(network: Network, path: str | os.PathLike[str]) -> None:
    """Write a network to a model file; an existing file is replaced only once the new one is complete.

    Raises
    ------
    InputError
        If the path cannot be written.
    """
    network.model.write(path)


def load(path: str | os.PathLike[str]) -> Network:
    """Read a network from a model file.

    Raises
    ------
    InputError
        If the file is missing, damaged, of another kind or of a newer version.
    """
    return Network(traces.Model.read(path))
