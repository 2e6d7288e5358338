"""Does a sequence's result depend on the others of its batch? `python -m bench.neighbours [--output FILE]`, JSON."""

from __future__ import annotations

import argparse
import json
from pathlib import Path

import numpy as np

import accel
import fxp
from bench.peers import onnx_runtime, torch_lstm

HIDDEN, STEPS, BATCH = 320, 200, 16


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--output", type=Path, help="also write the JSON to this file")
    chosen = parser.parse_args()
    x = np.ascontiguousarray(torch_lstm.inputs(HIDDEN, BATCH, STEPS).numpy())
    network = fxp.from_torch(torch_lstm.lstm(HIDDEN), calibration=x.transpose(1, 0, 2))

    def ours(values: np.ndarray) -> np.ndarray:
        batch = np.ascontiguousarray(values.transpose(1, 0, 2))
        return fxp.emulate(network, batch, accel.Peak()).outputs.transpose(1, 0, 2)

    rows = {}
    for name, function in {"fxp-lstm": ours, **torch_lstm.functions(HIDDEN), **onnx_runtime.functions(HIDDEN)}.items():
        together, alone = function(x)[:, :1], function(np.ascontiguousarray(x[:, :1]))
        rows[name] = {
            "equal_share": float((together == alone).mean()),
            "largest_difference": float(np.abs(together - alone).max()),
        }
    versions = {"torch": torch_lstm.version(), "onnxruntime": onnx_runtime.version()}
    result = {"hidden": HIDDEN, "steps": STEPS, "batch": BATCH, "versions": versions, "rows": rows}
    text = json.dumps(result, indent=1)
    if chosen.output:
        chosen.output.write_text(text + "\n")
    print(text)


if __name__ == "__main__":
    main()
