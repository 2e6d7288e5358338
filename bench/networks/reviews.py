"""Train the bundled sentiment network: is a snippet of a movie review favourable or not.

An embedding of 64, one LSTM layer of 128 and a linear head on its last step. From the root of the repository:

    python -m bench.networks.reviews train reviews.pt
    python -m bench.networks.reviews evaluate reviews.pt
    python -m bench.networks.reviews export reviews.pt

The 10,605 snippets come from vaderSentiment 3.3.2 (MIT), fetched through pip and checked; Pang and Lee (2004)
published them first, Hutto and Gilbert (2014) had at least twenty people rate each from -4 to 4. The label is the sign
of the mean. Training takes about a minute on one core.
"""

from __future__ import annotations

import io
import json
import math
import re
import tarfile
import time
from collections import Counter
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np

from bench.networks import noisy, stages
from fxp.networks import fetch

BUNDLE = Path(__file__).parents[2] / "fxp" / "networks" / "reviews"
INNER = "vaderSentiment-3.3.2/additional_resources/hutto_ICWSM_2014.tar.gz"
SNIPPETS = "hutto_ICWSM_2014/movieReviewSnippets_GroundTruth.txt"
ORIGIN = "movie review snippets of Pang and Lee (2004) as rated by Hutto and Gilbert (2014), from vaderSentiment 3.3.2"
LICENCE = "MIT (vaderSentiment); see LICENCE.md beside this file"
METRIC = "accuracy"

EMBEDDING, HIDDEN, CLASSES = 64, 128, 2
SEED = 0
HELD_OUT, CALIBRATION = 3000, 800
LEAST = 3  # occurrences in the training snippets that put a word into the vocabulary
UNKNOWN = "<unknown>"

EPOCHS, BATCH = 12, 32
LEARNING_RATE, WEIGHT_DECAY, CLIP = 1e-3, 0.05, 1.0
DROP_WORD, DROP_INPUT, DROP_OUTPUT = 0.15, 0.3, 0.5
DROP_CONNECT, NOISE = 0.25, 0.2  # of `bench.networks.noisy`
# In training the target is a probability, 1 / (1 + exp(-SLOPE * mean rating)): a rating near zero says little.
SLOPE = 2.0


@dataclass(frozen=True)
class Part:
    """Tokens int32 [words] and the mean rating of each snippet."""

    tokens: list[np.ndarray]
    ratings: np.ndarray

    @property
    def labels(self) -> np.ndarray:
        """1 for favourable snippets, 0 for the others."""
        return (self.ratings > 0).astype(np.int32)


def words(text: str) -> list[str]:
    """Lower-case words, numbers and marks of a snippet."""
    return re.findall(r"[a-z]+(?:'[a-z]+)?|[0-9]+|[^\w\s]", text.lower())


def snippets() -> list[tuple[float, list[str]]]:
    """Mean rating and words of every snippet that has a sign and words, in an order drawn once."""
    with tarfile.open(fetch.fetch(fetch.REVIEWS)) as outer:
        packed = outer.extractfile(INNER)
        assert packed is not None
        with tarfile.open(fileobj=io.BytesIO(packed.read())) as inner:
            text = inner.extractfile(SNIPPETS)
            assert text is not None
            lines = text.read().decode("utf-8").splitlines()
    rows = [line.split("\t", 2) for line in lines if line.count("\t") >= 2]
    rated = [(float(rating), words(text)) for _, rating, text in rows]
    kept = [(rating, found) for rating, found in rated if rating != 0 and found]
    return [kept[n] for n in np.random.default_rng(SEED).permutation(len(kept))]


@cache
def parts() -> tuple[Part, Part, Part, tuple[str, ...]]:
    """Snippets to train on, to calibrate on, and held out; and the vocabulary of the first."""
    rows = snippets()
    first, second = HELD_OUT, HELD_OUT + CALIBRATION
    counts = Counter(word for _, found in rows[second:] for word in found)
    vocabulary = (UNKNOWN, *sorted(word for word, count in counts.items() if count >= LEAST))
    token = {word: number for number, word in enumerate(vocabulary)}

    def part(chosen: list[tuple[float, list[str]]]) -> Part:
        tokens = [np.array([token.get(word, 0) for word in found], np.int32) for _, found in chosen]
        return Part(tokens, np.array([rating for rating, _ in chosen]))

    return part(rows[second:]), part(rows[first:second]), part(rows[:first]), vocabulary


def build() -> Any:
    """Return the untrained network as a `torch.nn.ModuleDict` of `embedding`, `lstm` and `head`."""
    import torch

    torch.manual_seed(SEED)
    network = torch.nn.ModuleDict({
        "embedding": torch.nn.Embedding(len(parts()[3]), EMBEDDING),
        "lstm": torch.nn.LSTM(EMBEDDING, HIDDEN, batch_first=True),
        "head": torch.nn.Linear(HIDDEN, CLASSES),
    })  # fmt: skip
    torch.nn.init.normal_(network["embedding"].weight, std=0.3)
    torch.nn.init.ones_(network["lstm"].bias_ih_l0[HIDDEN : 2 * HIDDEN])
    return network


def logits(network: Any, tokens: list[np.ndarray], training: bool = False) -> Any:
    """Logits [snippets, 2] of the last step of each snippet."""
    import torch

    drop = torch.nn.functional.dropout
    lengths = torch.tensor([len(found) for found in tokens])
    padded = torch.nn.utils.rnn.pad_sequence([torch.from_numpy(found.astype(np.int64)) for found in tokens], True)
    if training:
        padded = torch.where(torch.rand(padded.shape) < DROP_WORD, 0, padded)
    x = drop(network["embedding"](padded), DROP_INPUT, training)
    h, _ = noisy.run(network["lstm"], x, DROP_CONNECT, NOISE) if training else network["lstm"](x)
    last = h[torch.arange(len(tokens)), lengths - 1]
    return network["head"](drop(last, DROP_OUTPUT, training))


def train(chosen: Part, epochs: int = EPOCHS) -> Any:
    """Train for a fixed number of epochs; batches hold snippets of like length."""
    import torch

    torch.set_num_threads(1)
    network = build()
    noisy.one_bias(network["lstm"])
    torch.manual_seed(SEED)
    rng = np.random.default_rng(SEED)
    learning = [parameter for parameter in network.parameters() if parameter.requires_grad]
    optimiser = torch.optim.AdamW(learning, lr=LEARNING_RATE, weight_decay=WEIGHT_DECAY)
    favourable = 1 / (1 + np.exp(-SLOPE * chosen.ratings))
    targets = torch.from_numpy(np.stack([1 - favourable, favourable], axis=1).astype(np.float32))
    lengths, begun = np.array([len(found) for found in chosen.tokens]), time.monotonic()
    batches = math.ceil(len(lengths) / BATCH)
    for epoch in range(epochs):
        total = 0.0
        # Noise of up to three words mixes the batches anew in every epoch.
        order = np.argsort(lengths + rng.uniform(0, 3, len(lengths)))
        for number, batch in enumerate(rng.permutation(batches)):
            for group in optimiser.param_groups:
                group["lr"] = LEARNING_RATE * 0.5 * (1 + math.cos(math.pi * (epoch + number / batches) / epochs))
            members = order[batch * BATCH : (batch + 1) * BATCH]
            found = logits(network, [chosen.tokens[n] for n in members], training=True)
            loss = torch.nn.functional.cross_entropy(found, targets[members])
            optimiser.zero_grad()
            loss.backward()
            torch.nn.utils.clip_grad_norm_(network.parameters(), CLIP)
            optimiser.step()
            total += float(loss.detach()) * len(members)
        print(f"{epoch + 1:3d}  {total / len(lengths):.4f} nats  {time.monotonic() - begun:.0f} s", flush=True)
    return network.eval()


def evaluate(network: Any, chosen: Part) -> tuple[float, float]:
    """Accuracy and cross-entropy (nats)."""
    import torch

    with torch.no_grad():
        found = torch.cat([logits(network, chosen.tokens[n : n + 100]) for n in range(0, len(chosen.tokens), 100)])
        labels = torch.from_numpy(chosen.labels.astype(np.int64))
        loss = torch.nn.functional.cross_entropy(found.double(), labels)
    return float((found.argmax(dim=1) == labels).double().mean()), float(loss)


def export(network: Any, folder: Path = BUNDLE) -> None:
    """Write the quantised network, its held-out and calibration data, and the vocabulary."""
    import fxp
    import traces

    folder.mkdir(parents=True, exist_ok=True)
    _, calibration, held_out, vocabulary = parts()
    about = {"metric": METRIC, "origin": ORIGIN, "licence": LICENCE}
    for name, part in (("calibration", calibration), ("data", held_out)):
        data = traces.Data.of(part.tokens, list(part.labels), "last", name=f"reviews {name}", **about)
        data.write(folder / f"{name}.h5")
    (folder / "vocabulary.json").write_text(json.dumps(vocabulary) + "\n", encoding="utf-8")
    head = traces.Head(network["head"].weight.detach().numpy(), network["head"].bias.detach().numpy(), "last")
    quantised = fxp.from_torch(
        network["lstm"], calibration=calibration.tokens, head=head, embedding=network["embedding"],
        name="reviews, sentiment network 1x128",
        **{**about, "origin": f"trained by bench/networks/reviews.py on: {ORIGIN}"},
    )  # fmt: skip
    fxp.save(fxp.fit_scales(quantised, calibration.tokens)[0], folder / "model.h5")


def _report(network: Any) -> None:
    for name, part in zip(("train", "calibration", "held out"), parts()[:3], strict=True):
        accuracy, loss = evaluate(network, part)
        print(f"{name}, {len(part.tokens)} snippets: accuracy {100 * accuracy:.2f} %, cross-entropy {loss:.4f} nats")


if __name__ == "__main__":
    stages.main("reviews", __doc__, build, lambda: train(parts()[0]), _report, export)
