"""Fine-tune networks to try with the emulator in the loop, and judge them on held-out data.

    python -m bench.finetuning judge kjv build/finetuning      # trains what is not there yet; ten minutes on one core
    python -m bench.finetuning trial chorales --share 0.95 --learning-rate 5e-4 --bit-rate 0.06

`judge` trains on the data that the network itself was trained on (`speaker`: on its calibration recordings), at the
share and rates of `TASKS`, and judges on the held-out data; results in bench/results/finetuning-NAME.json. Paired
differences are from static 8 bits of the network before tuning, and from those tuned as long. `trial` judges one
setting on calibration data, and is how those of `TASKS` were chosen.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

import accel
import fxp
import traces
from bench.networks import chorales, kjv, reviews
from fxp import calibration, networks
from fxp.evaluation import Scored, emulate_scored
from fxp.finetuning import tune_and_judge
from fxp.networks import chorales as scores
from fxp.observation import subset
from fxp.scoring import Scorer

RESULTS = Path(__file__).parent / "results"
PIECES, LENGTH = 3200, 200  # of the text that kjv was trained on
KEYS = 8  # times that a chorale to train on is heard, each in a key drawn at random
TRIAL = 5  # every so manyth calibration recording judges a trial of `speaker`, the others train
HIGH = accel.Static(8)


def text() -> traces.Data:
    """Pieces of the text that `kjv` was trained on."""
    read = kjv.read()
    pieces = kjv.sequences(kjv.split(kjv.encode(read, kjv.vocabulary(read))).train, LENGTH, PIECES)
    return traces.Data.of([p[:-1] for p in pieces], [p[1:] for p in pieces], name="kjv train", metric=kjv.METRIC)


def music() -> traces.Data:
    """The chorales that `chorales` was trained on, in several keys."""
    rng = np.random.default_rng(chorales.SEED)
    rolls = chorales.rolls()[0] * KEYS
    return scores.data([chorales.transposed(r, int(rng.choice(chorales.TRANSPOSE))) for r in rolls], "chorales train")


def snippets() -> traces.Data:
    """The snippets that `reviews` was trained on, with their signs."""
    part = reviews.parts()[0]
    return traces.Data.of(part.tokens, list(part.labels), "last", name="reviews train", metric=reviews.METRIC)


def recordings() -> traces.Data:
    """Recordings to calibrate `speaker` on: what it was trained on is not to be had."""
    return stored("speaker", "calibration.h5")


@dataclass(frozen=True)
class Task:
    """What a network is tuned on and for.

    Attributes
    ----------
    data : function of nothing to what is trained on
    share : float
        Asked of the element readouts on calibration data.
    rates : tuple of dict
        Options of `fxp.finetune`, each a pair of networks: for the controller, and for static 8 bits.
    every : int
        Only every so manyth calibration sequence makes bits and controller.
    """

    data: Callable[[], traces.Data]
    share: float
    rates: tuple[dict[str, Any], ...]
    every: int = 1


TASKS = {
    "kjv": Task(
        text, 0.765, ({"learning_rate": 2e-3, "bit_rate": 0.06}, {"learning_rate": 4e-3, "bit_rate": 0.03}), kjv.FITTED
    ),
    "chorales": Task(
        music, 0.95, ({"learning_rate": 5e-4, "bit_rate": 0.06}, {"learning_rate": 2e-3, "bit_rate": 0.03})
    ),
    "reviews": Task(snippets, 0.85, ({"learning_rate": 1e-4, "bit_rate": 0.01, "teacher": 1.0},)),
    "speaker": Task(recordings, 0.8, ({"learning_rate": 3e-4, "bit_rate": 0.03},)),
}
STEPS = 200


def stored(name: str, file: str) -> traces.Data:
    """Data of a network, in memory."""
    with traces.open(networks.build(name)[file], kind="data") as source:
        return subset(source, range(len(source)))


def judge(name: str, folder: Path) -> dict[str, Any]:
    """Train what a folder does not hold yet, and judge all of it on held-out data.

    Returns
    -------
    dict
        network, metric, unit, share, steps, tolerance (of static 8 bits before tuning); rows of network, value,
        low_share, and for every static 8 bits "from NAME": difference, interval (95 %), upper (of the loss, one-sided).
    """
    task = TASKS[name]
    network = fxp.load(networks.build(name)["model.h5"])
    data = stored(name, "calibration.h5")
    fitted, controller = made(network, subset(data, range(0, len(data), task.every)), task.share, folder / name)
    variants: list[tuple[str, fxp.Network, Any]] = [("before, 8 bits", network, HIGH), ("before", fitted, controller)]
    for options in task.rates:
        rate = f"{options['learning_rate']:g}"
        alone = tuned(network, HIGH, task, options, folder / f"{name}-{rate}-8-bits.h5")
        both = tuned(fitted, controller, task, options, folder / f"{name}-{rate}.h5")
        variants += [(f"{rate}, 8 bits", alone, HIGH), (rate, both, controller), (f"{rate}: its 8 bits", both, HIGH)]
    held_out = stored(name, "data.h5")
    scored: dict[str, tuple[Scorer, Scored]] = {}
    for label, candidate, chooser in variants:
        scorer = Scorer(candidate, held_out, metric=networks.entry(name).metric, reference=network)
        scored[label] = scorer, emulate_scored(scorer, chooser)
    bases = [label for label in scored if label.endswith(", 8 bits")]
    rows = []
    for label, (scorer, result) in scored.items():
        row: dict[str, Any] = {
            "network": label, "value": scorer.value(result.totals), "low_share": result.run.low_share
        }  # fmt: skip
        rows.append(row | {f"from {base}": difference(scorer, result, scored[base][1]) for base in bases})
    scorer, first = scored["before, 8 bits"]
    return {
        "network": name,
        "metric": scorer.name,
        "unit": scorer.metric.unit,
        "share": task.share,
        "steps": STEPS,
        "tolerance": networks.entry(name).tolerance(scorer.value(first.totals), scorer.name),
        "rows": rows,
    }


def made(network: fxp.Network, data: traces.Data, share: float, stem: Path) -> tuple[fxp.Network, Any]:
    """The calibrated form of a network with element readouts, kept in a file, and its controller."""
    path = stem.with_name(f"{stem.name}-calibrated.h5")
    if not path.exists():
        fxp.save(fxp.calibrate(network, data, low_share=share, columns=None, scales="keep")[0], path)
    fitted = fxp.load(path)
    return fitted, calibration.stored(fitted)


def tuned(network: fxp.Network, controller: Any, task: Task, options: dict[str, Any], path: Path) -> fxp.Network:
    """A network tuned for a controller, kept in a file."""
    if not path.exists():
        fxp.save(fxp.finetune(network, task.data(), controller, steps=STEPS, **options)[0], path)
    return fxp.load(path)


def difference(scorer: Scorer, result: Scored, base: Scored) -> dict[str, Any]:
    """What a variant's metric is beyond another's, paired."""
    return {
        "difference": scorer.value(result.totals) - scorer.value(base.totals),
        "interval": scorer.interval(result.totals, base.totals),
        "upper": scorer.loss(result.totals, base.totals).upper,
    }


def trial(name: str, share: float, options: dict[str, Any]) -> list[dict[str, Any]]:
    """One setting, judged on calibration data (`speaker`: on a part of it that nothing else saw): rows as
    `fxp.finetuning.tune_and_judge` gives them."""
    task = TASKS[name]
    network = fxp.load(networks.build(name)["model.h5"])
    judged, training = stored(name, "calibration.h5"), task.data()
    seen = judged
    if name == "speaker":
        numbers = range(len(judged))
        seen = training = subset(judged, [n for n in numbers if n % TRIAL])
        judged = subset(judged, numbers[::TRIAL])
    fitted, controller = fxp.calibrate(
        network, subset(seen, range(0, len(seen), task.every)), low_share=share, columns=None, scales="keep"
    )
    return tune_and_judge(fitted, training, judged, controller, steps=STEPS, **options)[1]


def main() -> None:
    """Parse the command line and run one of both."""
    parser = argparse.ArgumentParser(prog="python -m bench.finetuning", description=__doc__.splitlines()[0])
    commands = parser.add_subparsers(dest="command", required=True)
    judging = commands.add_parser("judge")
    judging.add_argument("network", choices=TASKS)
    judging.add_argument("folder", type=Path, help="where tuned models are kept")
    trying = commands.add_parser("trial")
    trying.add_argument("network", choices=TASKS)
    trying.add_argument("--share", type=float, required=True)
    trying.add_argument("--learning-rate", type=float, required=True)
    trying.add_argument("--bit-rate", type=float, required=True)
    trying.add_argument("--teacher", type=float, default=0.0)
    trying.add_argument("--part", default="all")
    given = vars(parser.parse_args())
    if given.pop("command") == "trial":
        for row in trial(given.pop("network"), given.pop("share"), given):
            print(json.dumps(row))
        return
    given["folder"].mkdir(parents=True, exist_ok=True)
    result = judge(given["network"], given["folder"])
    (RESULTS / f"finetuning-{given['network']}.json").write_text(json.dumps(result, indent=1) + "\n")
    for row in result["rows"]:
        print(json.dumps(row))


if __name__ == "__main__":
    main()
