"""The estimate file: cycles, energy and area of a machine that runs a trace."""

from dataclasses import dataclass
from typing import Any

import numpy as np

from traces import schema, store
from traces.errors import InputError
from traces.fields import Node, conform, present

SPEC = schema.SCHEMAS["estimate"]
_TABLE = ("dynamic_pj", "static_pj", "area_mm2")


@dataclass(frozen=True, eq=False)
class Estimate:
    """Costs of a machine, as tables and as the whole record that they were taken from.

    Parameters
    ----------
    machine : str
    record : dict
        The whole estimate; JSON can express it.
    components : list of str
        K names, each at most 64 bytes of UTF-8.
    dynamic_pj, static_pj : float64 [K]
        Energy of each component in pJ.
    area_mm2 : float64 [K]
        Area of each component in mm².
    layer_cycles : int64 [L, D]
        Cycles of each layer and direction.
    baseline : str, optional
        Machine that it is compared with.
    trace_digest : str
        Digest of the trace, or "".
    """

    machine: str
    record: dict[str, Any]
    components: list[str]
    dynamic_pj: np.ndarray
    static_pj: np.ndarray
    area_mm2: np.ndarray
    layer_cycles: np.ndarray
    baseline: str | None = None
    trace_digest: str = ""

    def validate(self) -> None:
        """Check types, shapes and values; InputError names what is wrong."""
        conform(SPEC, self._node())
        for name in _TABLE:
            if not (getattr(self, name) >= 0).all() or not np.isfinite(getattr(self, name)).all():
                raise InputError(f"components/{name} must be finite and not negative")
        if (self.layer_cycles < 0).any():
            raise InputError("layer_cycles must not be negative")
        if len(set(self.components)) != len(self.components):
            raise InputError("components/name: names must be distinct")

    def write(self, path: store.Pathlike) -> None:
        """Write the estimate file; InputError if it is not valid or the path cannot be written."""
        self.validate()
        schema.write(path, "estimate", self._node())

    @classmethod
    def read(cls, path: store.Pathlike) -> "Estimate":
        """Read an estimate file; InputError if it cannot be read, FormatError if it is not valid."""
        with schema.opened(path, "estimate") as node:
            table = {name: dataset[()] for name, dataset in node.groups["components"].arrays.items()}
            names = [name.decode() for name in table.pop("name").tolist()]
            cycles = node.arrays["layer_cycles"][()]
            estimate = cls(components=names, layer_cycles=cycles, **table, **node.attributes)
            estimate.validate()
            return estimate

    def _node(self) -> Node:
        names = [str(name).encode() for name in self.components]
        if any(not 0 < len(name) <= 64 or b"\0" in name for name in names):
            raise InputError("components/name: a name must have 1 to 64 bytes")
        attributes = {name: getattr(self, name) for name in ("machine", "baseline", "trace_digest", "record")}
        table = {"name": np.array(names, dtype="S64"), **{name: getattr(self, name) for name in _TABLE}}
        return Node(
            attributes=present(attributes),
            arrays={"layer_cycles": self.layer_cycles},
            groups={"components": Node(arrays=table)},
        )
