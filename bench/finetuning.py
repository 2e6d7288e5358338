"""Fine-tune the bundled character model with the emulator in the loop, and judge it on held-out text.

    python -m bench.finetuning build/finetuning    # trains what is not there yet, judges all; ten minutes on one core

Trained on pieces of the text that the network itself was trained on, judged on data.h5; results in
bench/results/finetuning.json. Paired differences are from static 8 bits of the network before tuning, and of that
tuned as long at 8 bits on the labels.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

import accel
import fxp
import traces
from bench.networks import kjv
from fxp import calibration, networks
from fxp.evaluation import emulate_scored
from fxp.observation import as_data, subset
from fxp.scoring import Scorer

RESULTS = Path(__file__).parent / "results" / "finetuning.json"
PIECES, LENGTH = 3200, 200
SHARE = 0.765
STEPS = 200
TUNED: tuple[tuple[str, bool, dict[str, Any]], ...] = (  # name, whether under the controller, options
    ("0.002, 8 bits", False, {"learning_rate": 2e-3}),
    ("0.002", True, {"learning_rate": 2e-3, "bit_rate": 0.06}),
    ("0.004, 8 bits", False, {"learning_rate": 4e-3}),
    ("0.004", True, {"learning_rate": 4e-3, "bit_rate": 0.03}),
)
BASES = ("before, 8 bits", "0.002, 8 bits", "0.004, 8 bits")


def training_data() -> traces.Data:
    """Pieces of the text that the network was trained on."""
    text = kjv.read()
    parts = kjv.split(kjv.encode(text, kjv.vocabulary(text)))
    pieces = kjv.sequences(parts.train, LENGTH, PIECES)
    return traces.Data.of(
        [p[:-1] for p in pieces], [p[1:] for p in pieces], name="kjv train", metric=kjv.METRIC
    )


def start(path: Path) -> tuple[fxp.Network, fxp.Network, Any]:
    """The bundled network, its calibrated form (kept at `path`), and the controller, at the share to tune for."""
    network = fxp.load(networks.path("kjv"))
    if not path.exists():
        with traces.open(networks.path("kjv", "calibration.h5"), kind="data") as source:
            data = subset(source, range(0, len(source), kjv.FITTED))
        fxp.save(fxp.calibrate(network, data, low_share=SHARE, columns=None)[0], path)
    fitted = fxp.load(path)
    return network, fitted, calibration.stored(fitted)


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m bench.finetuning", description=__doc__.splitlines()[0])
    parser.add_argument("folder", type=Path, help="where tuned models are kept")
    folder = parser.parse_args().folder
    folder.mkdir(parents=True, exist_ok=True)
    network, fitted, controller = start(folder / "calibrated.h5")
    data = training_data()
    high = accel.Static(8)
    variants: list[tuple[str, fxp.Network, Any]] = [("before, 8 bits", network, high), ("before", fitted, controller)]
    for name, controlled, options in TUNED:
        path = folder / f"{name.replace(', ', '-').replace(' ', '-')}.h5"
        if not path.exists():
            first, chooser = (fitted, controller) if controlled else (network, high)
            fxp.save(fxp.finetune(first, data, chooser, steps=STEPS, **options)[0], path)
        tuned = fxp.load(path)
        variants.append((name, tuned, controller if controlled else high))
        if controlled:
            variants.append((f"{name}: its 8 bits", tuned, high))
    with traces.open(networks.path("kjv", "data.h5"), kind="data") as source:
        judged = as_data(network, source)
    scored = {}
    for name, candidate, chooser in variants:
        scorer = Scorer(candidate, judged)
        scored[name] = scorer, emulate_scored(scorer, chooser)
    rows = []
    for name, (scorer, result) in scored.items():
        row: dict[str, Any] = {
            "network": name, "metric": scorer.value(result.totals), "low_share": result.run.low_share
        }  # fmt: skip
        for base in BASES:
            totals = scored[base][1].totals
            row[f"from {base}"] = {
                "difference": scorer.value(result.totals) - scorer.value(totals),
                "interval": scorer.interval(result.totals, totals),
                "upper": scorer.loss(result.totals, totals).upper,
            }
        rows.append(row)
    RESULTS.write_text(json.dumps({"steps": STEPS, "share": SHARE, "rows": rows}, indent=1) + "\n")
    for row in rows:
        print(row)


if __name__ == "__main__":
    main()
