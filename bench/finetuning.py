"""Fine-tune the bundled character model with the emulator in the loop, and judge it on held-out text.

    python -m bench.finetuning build/finetuning    # trains what is not there yet, judges all; an hour on one core

Trained on pieces of the text that the network itself was trained on, judged on data.h5; results in
bench/results/finetuning.json. Paired differences are from static 8 bits of the network before tuning, and of those
tuned as long at 8 bits, on the labels and on the teacher.
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
from fxp import calibration, networks, precision
from fxp.evaluation import emulate_scored
from fxp.observation import Observation, as_data
from fxp.scoring import Scorer

RESULTS = Path(__file__).parent / "results" / "finetuning.json"
PIECES, LENGTH = 3200, 200
SHARE = 0.76
TUNED = (  # name, whether under the controller, learning rate, weight of the teacher
    ("labels", True, 5e-4, 0.0),
    ("labels, 8 bits", False, 5e-4, 0.0),
    ("teacher", True, 1e-3, 1.0),
    ("teacher, 8 bits", False, 1e-3, 1.0),
)
STEPS = 200


def training_data() -> traces.Data:
    """Pieces of the text that the network was trained on."""
    text = kjv.read()
    parts = kjv.split(kjv.encode(text, kjv.vocabulary(text)))
    pieces = kjv.sequences(parts.train, LENGTH, PIECES)
    return traces.Data.of(
        [p[:-1] for p in pieces], [p[1:] for p in pieces], name="kjv train", metric=kjv.METRIC
    )


def start() -> tuple[fxp.Network, fxp.Network, Any]:
    """The bundled network, its calibrated form, and the controller at the share to tune for."""
    network = fxp.load(networks.path("kjv"))
    with traces.open(networks.path("kjv", "calibration.h5"), kind="data") as source:
        data = as_data(network, source)
    fitted, controller = fxp.calibrate(network, data, low_share=0.57, columns=0)
    return network, fitted, calibration.at_share(fitted, data, controller, Observation(fitted, data), SHARE)


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m bench.finetuning", description=__doc__.splitlines()[0])
    parser.add_argument("folder", type=Path, help="where tuned models are kept")
    folder = parser.parse_args().folder
    folder.mkdir(parents=True, exist_ok=True)
    network, fitted, controller = start()
    data = training_data()
    high = accel.Static(8)
    variants: list[tuple[str, fxp.Network, Any]] = [("before, 8 bits", network, high), ("before", fitted, controller)]
    for name, controlled, rate, teacher in TUNED:
        path = folder / f"{name.replace(', ', '-').replace(' ', '-')}.h5"
        if not path.exists():
            first, chooser = (fitted, controller) if controlled else (network, high)
            made, _ = fxp.finetune(
                first, data, chooser, steps=STEPS, learning_rate=rate, teacher=teacher, refresh=False
            )
            fxp.save(made, path)
        tuned = fxp.load(path)
        variants.append((name, tuned, controller if controlled else high))
        if controlled:
            variants.append((f"{name}: its 8 bits", tuned, high))
        if name == "teacher":
            again, fresh = fxp.calibrate(tuned, data, low_share=SHARE, scales=precision.KEEP, columns=0)
            variants.append(("teacher, calibrated again", again, fresh))
    with traces.open(networks.path("kjv", "data.h5"), kind="data") as source:
        judged = as_data(network, source)
    scorers = [(name, Scorer(candidate, judged), chooser) for name, candidate, chooser in variants]
    scored = {name: (scorer, emulate_scored(scorer, chooser)) for name, scorer, chooser in scorers}
    rows = []
    for name, (scorer, result) in scored.items():
        row: dict[str, Any] = {
            "network": name, "metric": scorer.value(result.totals), "low_share": result.run.low_share
        }  # fmt: skip
        for base in ("before, 8 bits", "labels, 8 bits", "teacher, 8 bits"):
            totals = scored[base][1].totals
            row[f"from {base}"] = [
                scorer.value(result.totals) - scorer.value(totals), scorer.interval(result.totals, totals)
            ]  # fmt: skip
        rows.append(row)
    RESULTS.write_text(json.dumps({"steps": STEPS, "share": SHARE, "rows": rows}, indent=1) + "\n")
    for row in rows:
        print(row)


if __name__ == "__main__":
    main()
