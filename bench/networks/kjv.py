"""Train the bundled character language model on the King James text.

An embedding of 32, one LSTM layer of 256 and a linear head over the symbols of the text. Every stage is a
function: `vocabulary`, `split`, `train`, `evaluate`, `export`. From the root of the repository:

    python -m bench.networks.kjv train kjv.pt
    python -m bench.networks.kjv evaluate kjv.pt
    python -m bench.networks.kjv export kjv.pt

The larger one, of which the weights are bundled rounded to float16, was trained without the noise:

    python -m bench.networks.kjv train-plain kjv-512.pt --hidden 512 --iterations 3000
    python -m bench.networks.kjv pack kjv-512.pt

Training takes about half an hour on one core, either network. The same torch build on the same kind of processor
gives the same weights; another build or processor rounds its sums otherwise and ends close by.
"""

from __future__ import annotations

import argparse
import gzip
import math
import os
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from bench.networks import noisy
from fxp.networks import halves, kjv_512

TEXT = Path(__file__).with_name("kjv.txt.gz")
ORIGIN = "King James text, as printed by Debian's bible-kjv and bible-kjv-text packages"

LICENCE = "the text is in the public domain in most of the world; see LICENCE.md beside this file"
METRIC = "bits_per_character"
BUNDLE = Path(__file__).parents[2] / "fxp" / "networks" / "kjv"

EMBEDDING, HIDDEN = 32, 256
SEED = 0

# The text is cut into 100 contiguous blocks of equal length. Two of every twenty are kept out of training, so
# that both kept-out parts meet every kind of text: law, history, poetry, prophets, gospels and letters.
BLOCKS, PERIOD = 100, 20
CALIBRATION_BLOCK, HELD_OUT_BLOCK = 9, 19

ITERATIONS, STREAMS, WINDOW = 12000, 32, 128
LEARNING_RATE, WARM_UP, CLIP = 4e-3, 100, 1.0

# Half of the streams jump at every fifth window, so that fresh starts are met; the other half hardly ever, so that
# unbroken text of thousands of characters is met too.
RESTARTS = (0.2, 0.01)

# Regularisers (`bench.networks.noisy`), from the first iteration on. The embedding starts uniform, with the variance of
# torch's normal one, so that no value stands out at the start.
DROP_CONNECT, NOISE = 0.1, 0.1
EMBEDDING_RANGE = 1.7320508

PLAIN_ITERATIONS, PLAIN_RESTARTS = 5000, (0.2,)  # of `train_plain`

SHORT, SHORT_COUNT = 200, 256
LONG, LONG_COUNT = 3000, 6
CALIBRATION_COUNT, FITTED = 800, 4  # every FITTED-th of them fits the scales


@dataclass(frozen=True)
class Split:
    """Three disjoint parts of the text, each a list of contiguous runs of int32 tokens.

    Attributes
    ----------
    train, calibration, held_out : list of numpy.ndarray
        int32 `[characters]` runs. No character belongs to two parts, and no run spans another part's block.
    """

    train: list[np.ndarray]
    calibration: list[np.ndarray]
    held_out: list[np.ndarray]


def read(path: Path = TEXT) -> str:
    """Return the unpacked text."""
    with gzip.open(path, "rt", encoding="ascii", newline="") as file:
        return file.read()


def vocabulary(text: str) -> str:
    """Return the symbols of `text` in code order; a token is a position in this string."""
    return "".join(sorted(set(text)))


def encode(text: str, symbols: str) -> np.ndarray:
    """Return `text` as int32 tokens.

    Raises
    ------
    ValueError
        If `text` holds a character that `symbols` lacks.
    """
    token = {symbol: index for index, symbol in enumerate(symbols)}
    missing = sorted(set(text) - set(token))
    if missing:
        raise ValueError(f"not in the vocabulary: {missing}")
    return np.fromiter((token[symbol] for symbol in text), np.int32, len(text))


def split(tokens: np.ndarray) -> Split:
    """Split the text by blocks: 90 to train on, 5 to calibrate on, 5 held out.

    Parameters
    ----------
    tokens : numpy.ndarray
        int32 `[characters]`, the whole text.

    Returns
    -------
    Split
        Blocks 9, 29, 49, 69 and 89 calibrate, blocks 19, 39, 59, 79 and 99 are held out, and the runs
        between them are for training.
    """
    edges = np.linspace(0, len(tokens), BLOCKS + 1).astype(np.int64)
    train: list[np.ndarray] = []
    kept: dict[int, list[np.ndarray]] = {CALIBRATION_BLOCK: [], HELD_OUT_BLOCK: []}
    start = 0
    for block in range(BLOCKS):
        if block % PERIOD in kept:
            if block > start:
                train.append(tokens[edges[start] : edges[block]])
            kept[block % PERIOD].append(tokens[edges[block] : edges[block + 1]])
            start = block + 1
    if start < BLOCKS:
        train.append(tokens[edges[start] :])
    return Split(train, kept[CALIBRATION_BLOCK], kept[HELD_OUT_BLOCK])


def sequences(runs: list[np.ndarray], length: int, count: int, skip: int = 0) -> list[np.ndarray]:
    """Cut `count` pieces of `length` steps from `runs`, shared evenly over the runs and evenly spaced.

    Parameters
    ----------
    runs : list of numpy.ndarray
        int32 `[characters]` each.
    length, count : int
        Steps of a piece, and the number of pieces.
    skip : int
        Characters left unused at the start of every run.

    Returns
    -------
    list of numpy.ndarray
        int32 `[length + 1]` each: the inputs are all but the last, the labels all but the first. No two
        pieces overlap.

    Raises
    ------
    ValueError
        If a run is too short for its share of the pieces.
    """
    pieces = []
    for index, run in enumerate(runs):
        share = count // len(runs) + (index < count % len(runs))
        room = len(run) - skip
        if share * (length + 1) > room:
            raise ValueError(f"run {index} holds {room} characters, not {share} pieces of {length + 1}")
        for piece in range(share):
            start = skip + piece * room // share
            pieces.append(run[start : start + length + 1])
    return pieces


def held_out_sequences(parts: Split) -> tuple[list[np.ndarray], list[np.ndarray]]:
    """Return the short and the long held-out pieces; no character is in two of them."""
    # The long pieces lie at the start of every run, so the short ones begin after them.
    longest = math.ceil(LONG_COUNT / len(parts.held_out)) * (LONG + 1)
    heads = [run[:longest] for run in parts.held_out]
    return sequences(parts.held_out, SHORT, SHORT_COUNT, skip=longest), sequences(heads, LONG, LONG_COUNT)


def calibration_sequences(parts: Split) -> list[np.ndarray]:
    """Return the pieces of text that calibration may see, in neither the training nor the held-out part."""
    return sequences(parts.calibration, SHORT, CALIBRATION_COUNT)


def fitting_sequences(pieces: list[np.ndarray]) -> list[np.ndarray]:
    """Return the inputs of those calibration pieces that the scales of x and h are fitted on."""
    return [piece[:-1] for piece in pieces[::FITTED]]


def build(symbols: int, hidden: int = HIDDEN) -> Any:
    """Return the untrained network as a `torch.nn.ModuleDict` of `embedding`, `lstm` and `head`."""
    import torch

    torch.manual_seed(SEED)
    embedding = torch.nn.Embedding(symbols, EMBEDDING)
    lstm: Any = torch.nn.LSTM(EMBEDDING, hidden, batch_first=True)
    head = torch.nn.Linear(hidden, symbols)
    # A forget gate that starts open lets gradients reach far back (Jozefowicz et al., ICML 2015).
    torch.nn.init.ones_(lstm.bias_ih_l0[hidden : 2 * hidden])
    return torch.nn.ModuleDict({"embedding": embedding, "lstm": lstm, "head": head})


class _Streams:
    """Endless windows of text: every reader goes on where it was or jumps to a new place."""

    def __init__(self, runs: list[np.ndarray], seed: int, restarts: Sequence[float] = RESTARTS):
        self.restarts = np.repeat(restarts, STREAMS // len(restarts))
        self.rng = np.random.default_rng(seed)
        self.tokens = np.concatenate(runs)
        self.ends = np.cumsum([len(run) for run in runs])
        self.starts = self.ends - [len(run) for run in runs]
        self.position = np.zeros(STREAMS, np.int64)
        self.end = np.zeros(STREAMS, np.int64)

    def window(self) -> tuple[np.ndarray, np.ndarray]:
        """Return int32 tokens `[STREAMS, WINDOW + 1]` and, bool `[STREAMS]`, which streams went on."""
        going_on = (self.position + WINDOW + 1 <= self.end) & (self.rng.random(STREAMS) >= self.restarts)
        for stream in np.flatnonzero(~going_on):
            room = self.ends - self.starts - WINDOW
            run = self.rng.choice(len(room), p=room / room.sum())
            self.position[stream] = self.starts[run] + self.rng.integers(room[run])
            self.end[stream] = self.ends[run]
        rows = self.tokens[self.position[:, None] + np.arange(WINDOW + 1)]
        self.position += WINDOW
        return rows, going_on


def train(parts: Split, symbols: str, iterations: int = ITERATIONS, hidden: int = HIDDEN) -> Any:
    """Train the network for a fixed number of iterations; nothing is chosen by the held-out text.

    Truncated back-propagation through windows of 128 characters, the state carried from window to window
    until a stream jumps, with DropConnect and noise on the pre-activations.

    Parameters
    ----------
    parts : Split
        Only `train` is read.
    symbols : str
        The vocabulary.
    iterations : int
        Updates; the learning rate rises over the first 100 and falls along a cosine to zero.
    hidden : int
        Elements of the cell state.

    Returns
    -------
    torch.nn.ModuleDict
    """
    import torch

    torch.set_num_threads(1)
    network = build(len(symbols), hidden)
    torch.manual_seed(SEED)
    embedding, lstm = network["embedding"], network["lstm"]
    torch.nn.init.uniform_(embedding.weight, -EMBEDDING_RANGE, EMBEDDING_RANGE)
    noisy.one_bias(lstm)
    learning = [parameter for parameter in network.parameters() if parameter.requires_grad]
    optimiser = torch.optim.AdamW(learning, lr=LEARNING_RATE, weight_decay=0.01)

    def run(tokens: Any, state: tuple[Any, Any]) -> tuple[Any, tuple[Any, Any]]:
        return noisy.run(lstm, embedding(tokens), DROP_CONNECT, NOISE, state)

    _descend(network, optimiser, _Streams(parts.train, SEED), iterations, run)
    return network.eval()


def train_plain(parts: Split, symbols: str, iterations: int = PLAIN_ITERATIONS, hidden: int = HIDDEN) -> Any:
    """Train without DropConnect and noise, from torch's own start: as `kjv-512` was.

    Parameters and result are those of `train`.
    """
    import torch

    torch.set_num_threads(1)
    network = build(len(symbols), hidden)
    optimiser = torch.optim.AdamW(network.parameters(), lr=LEARNING_RATE, weight_decay=0.01)

    def run(tokens: Any, state: tuple[Any, Any]) -> tuple[Any, tuple[Any, Any]]:
        return network["lstm"](network["embedding"](tokens), state)

    _descend(network, optimiser, _Streams(parts.train, SEED, PLAIN_RESTARTS), iterations, run)
    return network.eval()


def _descend(network: Any, optimiser: Any, streams: _Streams, iterations: int, run: Any) -> None:
    """Descend on windows of text; `run` gives the LSTM's outputs and its state."""
    import torch

    hidden = cell = torch.zeros(1, STREAMS, network["lstm"].hidden_size)
    begun, total = time.monotonic(), 0.0
    for step in range(iterations):
        rate = min(1.0, (step + 1) / WARM_UP) * 0.5 * (1.0 + math.cos(math.pi * step / iterations))
        for group in optimiser.param_groups:
            group["lr"] = LEARNING_RATE * rate
        rows, going_on = streams.window()
        kept = torch.from_numpy(going_on.astype(np.float32))[None, :, None]
        tokens = torch.from_numpy(rows.astype(np.int64))
        output, (hidden, cell) = run(tokens[:, :-1], (hidden.detach() * kept, cell.detach() * kept))
        loss = torch.nn.functional.cross_entropy(network["head"](output).flatten(0, 1), tokens[:, 1:].flatten())
        optimiser.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(network.parameters(), CLIP)
        optimiser.step()
        total += float(loss.detach())
        if (step + 1) % 100 == 0:
            bits = total / 100 / math.log(2)
            print(f"{step + 1:5d}  {bits:.4f} bits/char  {time.monotonic() - begun:.0f} s", flush=True)
            total = 0.0


def evaluate(network: Any, pieces: list[np.ndarray]) -> np.ndarray:
    """Return the mean bits per character of every piece, each read from a zero state in float32.

    Parameters
    ----------
    network : torch.nn.ModuleDict
        As `build` makes it.
    pieces : list of numpy.ndarray
        int32 `[steps + 1]`, all of one length.

    Returns
    -------
    numpy.ndarray
        float64 `[pieces]`, bits per character.
    """
    import torch

    with torch.no_grad():
        tokens = torch.from_numpy(np.stack(pieces).astype(np.int64))
        output, _ = network["lstm"](network["embedding"](tokens[:, :-1]))
        logits = network["head"](output)
        loss = torch.nn.functional.cross_entropy(logits.transpose(1, 2), tokens[:, 1:], reduction="none")
    return loss.double().mean(dim=1).numpy() / math.log(2)


def save_checkpoint(network: Any, symbols: str, path: Path) -> None:
    """Write the network's weights and vocabulary, aside first and then into place."""
    import torch

    aside = path.with_name(path.name + ".partial")
    torch.save({"symbols": symbols, "state_dict": network.state_dict()}, aside)
    os.replace(aside, path)


def load_checkpoint(path: Path) -> tuple[Any, str]:
    """Return the network and the vocabulary of a checkpoint; nothing in the file is executed."""
    import torch

    stored = torch.load(path, map_location="cpu", weights_only=True)
    network = build(len(stored["symbols"]), stored["state_dict"]["lstm.weight_hh_l0"].shape[1])
    network.load_state_dict(stored["state_dict"])
    return network.eval(), stored["symbols"]


def export(network: Any, parts: Split, name: str, folder: Path = BUNDLE) -> None:
    """Write the quantised network and its data as files of the project.

    `model.h5`; `data.h5`, the held-out pieces; `long.h5`, the unbroken held-out pieces; `calibration.h5`. In the
    data each token is an input and the next one its label. Every feature of the embedding gets a scale of its own and
    h its range by `fxp.fit_scales` on every fourth calibration piece: on their text that costs 8 bits nothing and
    helps 4 bits.
    """
    import fxp
    import traces

    folder.mkdir(parents=True, exist_ok=True)
    short, long = held_out_sequences(parts)
    calibration = calibration_sequences(parts)
    inputs = fitting_sequences(calibration)
    quantised = fxp.from_torch(
        network["lstm"],
        calibration=inputs,
        head=network["head"],
        embedding=network["embedding"],
        name=name,
        metric=METRIC,
        origin=f"trained by bench/networks/kjv.py on: {ORIGIN}",
        licence=LICENCE,
    )
    fxp.save(fxp.fit_scales(quantised, inputs)[0], folder / "model.h5")
    for part, pieces in (("data", short), ("long", long), ("calibration", calibration)):
        traces.Data.of(
            [piece[:-1] for piece in pieces],
            [piece[1:] for piece in pieces],
            name=f"kjv {part}",
            metric=METRIC,
            origin=ORIGIN,
            licence=LICENCE,
        ).write(folder / f"{part}.h5")


def _print_evaluation(network: Any, parts: Split) -> None:
    """Print the bits per character of every evaluation set, each with the standard error over its pieces."""
    short, long = held_out_sequences(parts)
    calibration = calibration_sequences(parts)
    for name, pieces in (("held out", short), ("held out", long), ("calibration", calibration)):
        bits = evaluate(network, pieces)
        error = bits.std(ddof=1) / math.sqrt(len(bits))
        print(f"{name}, {len(pieces)} x {len(pieces[0]) - 1}: {bits.mean():.4f} ({error:.4f}) bits/char")


def main(arguments: list[str] | None = None) -> None:
    """Run one stage from the command line."""
    parser = argparse.ArgumentParser(prog="python -m bench.networks.kjv", description=__doc__.splitlines()[0])
    parser.add_argument("stage", choices=("train", "train-plain", "evaluate", "export", "pack"))
    parser.add_argument("checkpoint", type=Path)
    parser.add_argument("--iterations", type=int)
    parser.add_argument("--hidden", type=int, default=HIDDEN, help="of `train` and `train-plain`")
    parser.add_argument("--output", type=Path, help="folder of `export` or `pack`; by default the bundled one")
    chosen = parser.parse_args(arguments)

    text = read()
    symbols = vocabulary(text)
    parts = split(encode(text, symbols))
    if chosen.stage == "train":
        trained = train(parts, symbols, chosen.iterations or ITERATIONS, chosen.hidden)
        save_checkpoint(trained, symbols, chosen.checkpoint)
    elif chosen.stage == "train-plain":
        trained = train_plain(parts, symbols, chosen.iterations or PLAIN_ITERATIONS, chosen.hidden)
        save_checkpoint(trained, symbols, chosen.checkpoint)
    network, stored = load_checkpoint(chosen.checkpoint)
    if stored != symbols:
        parser.error(f"{chosen.checkpoint} was trained on other symbols than {TEXT.name}; train it anew")
    if chosen.stage == "pack":
        halves.write(network.state_dict(), chosen.output or kjv_512.FOLDER)
        return
    name = f"kjv, character language model 1x{network['lstm'].hidden_size}"
    if chosen.stage == "export":
        export(network, parts, name, chosen.output or BUNDLE)
    else:
        _print_evaluation(network, parts)


if __name__ == "__main__":
    main()
