"""Train the bundled model of Bach's chorales: which of 88 keys sound next.

One LSTM layer of 256 on piano rolls of a quarter note a step, and a linear head that gives each key's log odds. From
the root of the repository:

    python -m bench.networks.chorales train chorales.pt
    python -m bench.networks.chorales evaluate chorales.pt
    python -m bench.networks.chorales export chorales.pt

The scores come from music21 9.9.1, fetched through pip and checked. Training takes five to ten minutes on one core.
"""

from __future__ import annotations

import math
import time
from pathlib import Path
from typing import Any

import numpy as np

from bench.networks import noisy, stages
from fxp.networks import chorales as scores
from fxp.networks import fetch

BUNDLE = Path(__file__).parents[2] / "fxp" / "networks" / "chorales"
HIDDEN = 256
SEED = 0
EPOCHS, BATCH = 400, 8
LEARNING_RATE, WEIGHT_DECAY, CLIP = 5e-3, 0.01, 1.0
DROP_CONNECT, NOISE = 0.3, 0.15  # of `bench.networks.noisy`
TRANSPOSE = range(-5, 7)  # semitones, as far as the keys reach


def rolls() -> tuple[list[np.ndarray], list[np.ndarray], list[np.ndarray]]:
    """Chorales to train on, to calibrate on, and held out."""
    return scores.split([roll for _, roll in scores.read(fetch.fetch(fetch.CHORALES))])


def build() -> Any:
    """Return the untrained network as a `torch.nn.ModuleDict` of `lstm` and `head`."""
    import torch

    torch.manual_seed(SEED)
    network = torch.nn.ModuleDict({
        "lstm": torch.nn.LSTM(scores.NOTES, HIDDEN, batch_first=True),
        "head": torch.nn.Linear(HIDDEN, scores.NOTES),
    })  # fmt: skip
    torch.nn.init.ones_(network["lstm"].bias_ih_l0[HIDDEN : 2 * HIDDEN])
    # Keys are silent most of the time.
    torch.nn.init.constant_(network["head"].bias, math.log(4 / 84))
    return network


def transposed(roll: np.ndarray, semitones: int) -> np.ndarray:
    """The roll in another key, or as it is where a note would leave the keyboard."""
    used = np.flatnonzero(roll.any(axis=0))
    fits = used[0] + semitones >= 0 and used[-1] + semitones < scores.NOTES
    return np.roll(roll, semitones, axis=1) if fits else roll


def train(chosen: list[np.ndarray], epochs: int = EPOCHS) -> Any:
    """Train for a fixed number of epochs on chorales in keys drawn anew each time."""
    import torch

    torch.set_num_threads(1)
    network = build()
    noisy.one_bias(network["lstm"])
    torch.manual_seed(SEED)
    rng = np.random.default_rng(SEED)
    learning = [parameter for parameter in network.parameters() if parameter.requires_grad]
    optimiser = torch.optim.AdamW(learning, lr=LEARNING_RATE, weight_decay=WEIGHT_DECAY)
    begun = time.monotonic()
    batches = math.ceil(len(chosen) / BATCH)
    for epoch in range(epochs):
        total, steps = 0.0, 0
        order = rng.permutation(len(chosen))
        for number in range(batches):
            for group in optimiser.param_groups:
                group["lr"] = LEARNING_RATE * 0.5 * (1 + math.cos(math.pi * (epoch + number / batches) / epochs))
            members = [chosen[n] for n in order[number * BATCH : (number + 1) * BATCH]]
            x, y, inside = padded([transposed(roll, int(rng.choice(TRANSPOSE))) for roll in members])
            output, _ = noisy.run(network["lstm"], x, DROP_CONNECT, NOISE)
            loss = _loss(network["head"](output), y)[inside]
            optimiser.zero_grad()
            loss.mean().backward()
            torch.nn.utils.clip_grad_norm_(network.parameters(), CLIP)
            optimiser.step()
            total, steps = total + float(loss.detach().sum()), steps + len(loss)
        if (epoch + 1) % 10 == 0:
            print(f"{epoch + 1:4d}  {total / steps:.3f} nats/step  {time.monotonic() - begun:.0f} s", flush=True)
    return network.eval()


def padded(members: list[np.ndarray]) -> tuple[Any, Any, Any]:
    """Inputs and labels float32 [batch, time, 88], and bool [batch, time] that tells steps from padding."""
    import torch

    longest = max(len(roll) for roll in members)
    y = np.zeros((len(members), longest, scores.NOTES), np.float32)
    inside = np.zeros(y.shape[:2], bool)
    for row, roll in enumerate(members):
        y[row, : len(roll)], inside[row, : len(roll)] = roll, True
    x = np.zeros_like(y)
    x[:, 1:] = y[:, :-1]
    return torch.from_numpy(x), torch.from_numpy(y), torch.from_numpy(inside)


def _loss(logits: Any, y: Any) -> Any:
    import torch

    return torch.nn.functional.binary_cross_entropy_with_logits(logits, y, reduction="none").sum(dim=-1)


def evaluate(network: Any, chosen: list[np.ndarray]) -> np.ndarray:
    """Sum of the negative log-likelihood, and number of steps, of each chorale: float64 [chorales, 2]."""
    import torch

    results = []
    with torch.no_grad():
        for roll in chosen:
            x, y, _ = padded([roll])
            loss = _loss(network["head"](network["lstm"](x)[0]), y)
            results.append((float(loss.double().sum()), loss.numel()))
    return np.array(results)


def export(network: Any, folder: Path = BUNDLE) -> None:
    """Write the quantised network; its data is built from the scores when it is needed.

    Every key gets a scale of its own and h its range by `fxp.fit_scales` on the chorales to calibrate on.
    """
    import fxp

    _, calibration, _ = rolls()
    folder.mkdir(parents=True, exist_ok=True)
    source = scores.data(calibration, "chorales calibration")
    quantised = fxp.from_torch(
        network["lstm"], calibration=list(source), head=network["head"], name="chorales, polyphonic model 1x256",
        metric=scores.METRIC, origin=f"trained by bench/networks/chorales.py on: {scores.ORIGIN}",
        licence=scores.LICENCE,
    )  # fmt: skip
    fxp.save(fxp.fit_scales(quantised, source)[0], folder / "model.h5")


def _report(network: Any) -> None:
    for name, chosen in zip(("train", "calibration", "held out"), rolls(), strict=True):
        sums = evaluate(network, chosen)
        ratio = sums[:, 0].sum() / sums[:, 1].sum()
        print(f"{name}, {len(sums)} chorales, {sums[:, 1].sum():.0f} steps: {ratio:.3f} nats/step")


if __name__ == "__main__":
    stages.main("chorales", __doc__, build, lambda: train(rolls()[0]), _report, export)
