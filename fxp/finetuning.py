"""Fine-tuning with the emulator in the loop: some hundred steps in which every forward pass is the emulation of the
very network under its controller. `docs/finetuning.md` describes the method and what it was measured to do.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

import numpy as np

from accel import controllers
from accel.calibrated import Calibrated
from accel.controllers import Static
from fxp import calibration, floating, offsets, precision, quantise
from fxp.emulator import emulate
from fxp.evaluation import emulate_scored
from fxp.metrics import MULTI, SEQUENCE, kind_of
from fxp.network import Network
from fxp.observation import Observation, as_data, chosen, compares_embeddings, labels_of, subset
from fxp.scoring import Scorer
from traces import Data, InputError

BATCH = 16  # sequences of a step
WINDOW = 256  # steps of a longer sequence that a step sees, where labels belong to steps
WARM_UP = 0.05  # of the steps: the learning rate rises
CLIP = 1.0  # norm of the gradient
STEPS, LEARNING_RATE = 200, 1e-3
BIT_RATE = 0.03  # learning rate of offset bits, in low steps
ALL, LOW = PARTS = ("all", "low")
TEACHER = 0.0  # weight of what the float network expects beside the labels; docs/finetuning.md


def finetune(
    network: Network,
    data: Any,
    controller: Any = None,
    steps: int = STEPS,
    learning_rate: float = LEARNING_RATE,
    seed: int = 0,
    *,
    part: str = ALL,
    bit_rate: float = BIT_RATE,
    batch: int = BATCH,
    teacher: float = TEACHER,
    refresh: bool = False,
    progress: Callable[[int], None] | None = None,
) -> tuple[Network, Any]:
    """Train a network for its quantised arithmetic and its precision controller.

    The forward pass is the emulation under the controller; gradients pass every rounding unchanged. All weights,
    biases, low biases, offset bits, embedding and head are trained, or the low path alone, by Adam under a cosine
    schedule. With a head the loss is a mixture of the labels' negative log-likelihood and the cross-entropy with what
    the float network before training expects; where the metric compares embeddings, one minus the cosine to
    that network's; without a head, the squared difference of h from that network's.

    Parameters
    ----------
    network : Network
    data : traces.Data (in memory or open), or inputs as `emulate` takes them
        Not what the result is judged on.
    controller : a controller of `accel` or a user's own
        Default: the one that the network carries, or static high precision.
    steps : int
        Of the optimiser, each on `batch` sequences (of more than 256 steps, 256 that follow one another, if the labels
        allow it).
    learning_rate : float, above 0 to 1
        Of weights and biases.
    seed : int
        Of the order of sequences and of where long ones are cut.
    part : {"all", "low"}
        "low": offset bits and low biases alone. What the network does at static high precision keeps every bit.
    bit_rate : float, above 0 to 1
        Learning rate of offset bits, in low steps: a weight's two low values lie one apart.
    batch : int
    teacher : float, 0 to 1
        Weight of what the float network before training expects, beside the labels.
    refresh : bool
        Fit offset bits and low biases to the trained network (`fxp.calibrate`) and, for a calibrated controller, make
        it anew at the low share that the given one reaches on the data before training. The fit matches low precision
        to the float weights, which are no longer what was trained: measured, it undoes the training and more.
    progress : callable, optional
        Called with the number of finished steps.

    Returns
    -------
    Network and its controller. One thread is used: the same machine gives the same bits again.

    Raises
    ------
    InputError
        Options out of range, data that does not fit, or no torch.
    """
    torch = _torch()
    if part not in PARTS:
        raise InputError(f"part is {part!r}, expected one of {', '.join(PARTS)}")
    _check(network, steps, learning_rate, bit_rate, seed, batch, teacher)
    data = as_data(network, data)
    if controller is None:
        controller = calibration.stored(network) or Static(network.formats.high)
    controllers.check(controller)
    if part == LOW and (controller == Static(network.formats.high) or network.formats.shift == 0):
        raise InputError("nothing of the network runs low: part 'low' leaves nothing to train")
    share = None
    if isinstance(controller, Calibrated) and refresh:
        share = emulate(network, chosen(data), controller).low_share
    with _one_thread(torch):
        network = _train(
            torch, network, data, controller, part, steps, learning_rate, bit_rate, seed, batch, teacher, progress
        )
    described = _record(data, controller, part, steps, learning_rate, bit_rate, seed, batch, teacher)
    record = {**network.model.calibration, "finetuning": described}
    network = Network(replace(network.model, calibration=record))
    if not refresh or controller == Static(network.formats.high) or network.formats.shift == 0:
        return network, controller
    if share is not None:
        columns = _columns(controller)
        return calibration.calibrate(
            network, data, low_share=share, seed=seed, scales=precision.KEEP, columns=columns
        )
    observation = Observation(network, chosen(data))
    layers, fits = offsets.fit_layers(network.layers, observation)
    record["finetuning"]["layers"] = fits
    return Network(replace(network.model, layers=layers, calibration=record)), controller


def held_out(data: Data) -> tuple[Data, Data]:
    """Data to train on, and every fifth sequence to judge on.

    Raises
    ------
    InputError
        Fewer than ten sequences.
    """
    judged = range(calibration.HELD_OUT - 1, len(data), calibration.HELD_OUT)
    if len(judged) < 2:
        raise InputError(
            f"{len(data)} sequences are too few to hold out every fifth one: cut long sequences into pieces, or give "
            f"other data to judge on"
        )
    return subset(data, [n for n in range(len(data)) if n not in judged]), subset(data, judged)


def tune_and_judge(
    network: Network, data: Data, judged: Data, controller: Any = None, *, alone: bool = False, **options: Any
) -> tuple[Network, list[dict[str, Any]]]:
    """Fine-tune a network, and static high precision as long; judge both on other data.

    Parameters
    ----------
    network, data, controller : as for `finetune`
    judged : traces.Data
    alone : leave static high precision untuned
    options : of `finetune`; all of the network at static high precision is tuned, even if `part` is "low"

    Returns
    -------
    Network, and rows {"network": "before" or "tuned", "controller", "metric", "value", "difference", "interval",
    "loss_upper", "low_share"}; differences are paired with tuned static high precision (with that before tuning if
    `alone`), `loss_upper` is the upper end of the one-sided 95 % interval of the loss from it.
    """
    high = Static(network.formats.high)
    if controller is None:
        controller = calibration.stored(network) or high
    made, tuned = finetune(network, data, controller, **options)
    other = network
    if not alone:
        other = made if controller == high else finetune(network, data, high, **{**options, "part": ALL})[0]
    variants = [
        ("before", network, high), ("before", network, controller), ("tuned", other, high), ("tuned", made, tuned)
    ]  # fmt: skip
    kept: list[tuple[str, Network, Any]] = []
    for variant in variants:
        fresh = not any(variant[1] is known[1] and variant[2] == known[2] for known in kept)
        kept += [variant] if fresh else []
    scored = []
    for name, candidate, chooser in kept:
        scorer = Scorer(candidate, judged, reference=network)
        scored.append((name, candidate, chooser, scorer, emulate_scored(scorer, chooser)))
    base = next(entry for entry in scored if entry[1] is other and entry[2] == high)
    scorer, baseline = base[3], base[4].totals
    return made, [
        {
            "network": name,
            "controller": "static mask" if _is_mask(chooser) else controllers.describe(chooser)["name"],
            "metric": scorer.name,
            "value": scorer.value(result.totals),
            "difference": scorer.value(result.totals) - scorer.value(baseline),
            "interval": scorer.interval(result.totals, baseline),
            "loss_upper": scorer.loss(result.totals, baseline).upper,
            "low_share": result.run.low_share,
        }
        for name, _, chooser, _, result in scored
    ]


def _columns(controller: Calibrated) -> int | None:
    """`columns` of a calibration that makes a controller of the same form; None where layers read different numbers."""
    if controller.element_readout is None:
        return 0
    counts = {len(side.x_columns) + len(side.h_columns) for layer in controller.element_readout for side in layer}
    return counts.pop() or None if len(counts) == 1 else None


def _is_mask(controller: Any) -> bool:
    return isinstance(controller, Calibrated) and controller.is_mask


def _torch() -> Any:
    try:
        import torch
    except ImportError:
        raise InputError("fine-tuning needs PyTorch: pip install 'fxp-lstm[torch]'") from None
    return torch


def _check(
    network: Any, steps: Any, learning_rate: Any, bit_rate: Any, seed: Any, batch: Any, teacher: Any
) -> None:
    if not isinstance(network, Network):
        raise InputError(f"network is {type(network).__name__}, expected fxp.Network (fxp.load, fxp.from_torch)")
    if any(layer.peephole is not None for layer in network.layers):
        raise InputError("the network has peepholes, which fine-tuning does not train")
    for name, value, least in (("steps", steps, 1), ("seed", seed, 0), ("batch", batch, 1)):
        if not isinstance(value, (int, np.integer)) or isinstance(value, bool) or value < least:
            raise InputError(f"{name} is {value!r}, expected an int of at least {least}")
    rates = (("learning_rate", learning_rate, True), ("bit_rate", bit_rate, True), ("teacher", teacher, False))
    for name, value, above in rates:
        number = isinstance(value, (int, float, np.floating)) and not isinstance(value, bool)
        if not (number and 0 <= value <= 1 and not (above and value == 0)):
            raise InputError(f"{name} is {value!r}, expected a number {'above' if above else 'from'} 0 to 1")


def _record(
    data: Data,
    controller: Any,
    part: str,
    steps: int,
    rate: float,
    bit_rate: float,
    seed: int,
    batch: int,
    teacher: float,
) -> dict[str, Any]:
    described = controllers.describe(controller)
    if isinstance(controller, Calibrated):
        described = {"name": described["name"]}
    return {
        "data": {"name": data.name, "digest": data.digest(), "sequences": len(data), "steps": data.total},
        "controller": described,
        "part": part,
        "steps": int(steps),
        "learning_rate": float(rate),
        "bit_rate": float(bit_rate),
        "seed": int(seed),
        "batch": int(batch),
        "teacher": float(teacher),
    }


@contextmanager
def _one_thread(torch: Any) -> Iterator[None]:
    """Sums of torch in one order, whatever the machine's number of cores."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def _train(
    torch: Any,
    network: Network,
    data: Data,
    controller: Any,
    part: str,
    steps: int,
    learning_rate: float,
    bit_rate: float,
    seed: int,
    batch: int,
    teacher: float,
    progress: Callable[[int], None] | None,
) -> Network:
    from fxp.straight import Trainee, emulated

    task = _Task(torch, network, data, teacher)
    trainee = Trainee(network, low=part == LOW)
    bits = {id(tensor) for tensor in trainee.offsets()}
    rest = [tensor for tensor in trainee.parameters() if id(tensor) not in bits]
    optimiser = torch.optim.Adam(
        [
            {"params": rest, "highest": learning_rate},
            {"params": trainee.offsets(), "highest": bit_rate},
        ]
    )
    generator = np.random.default_rng(seed)
    warm = max(1, round(WARM_UP * steps))
    members = _members(generator, len(data), min(batch, len(data)))
    for step in range(steps):
        factor = min((step + 1) / warm, 0.5 * (1 + math.cos(math.pi * step / steps)))
        for group in optimiser.param_groups:
            group["lr"] = group["highest"] * factor
        drawn = [task.cut(generator, n) for n in next(members)]
        outputs, _ = emulated(
            trainee, controller, [task.inputs(*place) for place in drawn], [int(data.ids[n]) for n, _, _ in drawn]
        )
        loss = task.loss(trainee, drawn, outputs)
        optimiser.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(trainee.parameters(), CLIP)
        optimiser.step()
        trainee.bound()
        if progress is not None:
            progress(1)
    return trainee.network()


def _members(generator: np.random.Generator, count: int, size: int) -> Iterator[list[int]]:
    """Batches that go through all sequences in a new order each time."""
    waiting: list[int] = []
    while True:
        if len(waiting) < size:
            waiting += generator.permutation(count).tolist()
        yield waiting[:size]
        waiting = waiting[size:]


Place = tuple[int, int, int]  # sequence, first step, step after the last


class _Task:
    """What is to be learnt: the labels, and what the float network made of the same stretch before training."""

    def __init__(self, torch: Any, network: Network, data: Data, teacher: float):
        self._torch, self._data, self._network, self._teacher = torch, data, network, teacher
        head = network.model.head
        self._labels = labels_of(network, data)
        self._kind = None if self._labels is None else kind_of(data)
        self._last = head is not None and head.scope == "last"
        self._whole = self._last or self._kind == SEQUENCE or network.directions == 2
        self._float = quantise.float_layers(network.model)
        self._embeds = self._kind is None and compares_embeddings(network, data)

    def cut(self, generator: np.random.Generator, number: int) -> Place:
        """A stretch of a sequence."""
        length = int(self._data.lengths[number])
        if self._whole or length <= WINDOW:
            return number, 0, length
        start = int(generator.integers(length - WINDOW + 1))
        return number, start, start + WINDOW

    def inputs(self, number: int, start: int, stop: int) -> np.ndarray:
        """Features or tokens of a stretch."""
        return np.asarray(self._data.sequence(number))[start:stop]

    def loss(self, trainee: Any, drawn: list[Place], outputs: list[Any]) -> Any:
        """Mean loss over what is scored."""
        torch = self._torch
        table = self._network.model.embedding
        given = [self.inputs(*place) for place in drawn]
        taught = floating.run(self._float, given if table is None else [quantise.embed(table, x) for x in given])[0]
        head = self._network.model.head
        if head is None:
            wanted = torch.from_numpy(np.concatenate(taught))
            return ((torch.cat(outputs) - wanted) ** 2).mean() / (wanted**2).mean().clamp_min(1e-12)
        weight, bias = trainee.head
        logits = [(h[-1:] if self._last else h) @ weight.T + bias for h in outputs]
        soft = [torch.from_numpy((h[-1:] if self._last else h) @ head.weight.T + head.bias) for h in taught]
        if self._embeds:
            return 1 - torch.cosine_similarity(_embeddings(torch, logits), _embeddings(torch, soft)).mean()
        share = self._teacher if self._kind is not None else 1.0
        loss = share * self._distance(torch.cat(logits), torch.cat(soft)) if share else 0.0
        return loss + (1 - share) * self._labelled(logits, drawn) if share < 1 else loss

    def _distance(self, logits: Any, soft: Any) -> Any:
        """Cross-entropy with what the teacher expects."""
        functional = self._torch.nn.functional
        if self._kind == MULTI:
            return functional.binary_cross_entropy_with_logits(logits, soft.sigmoid(), reduction="none").sum(1).mean()
        return functional.cross_entropy(logits, soft.softmax(1))

    def _labelled(self, logits: list[Any], drawn: list[Place]) -> Any:
        torch = self._torch
        assert self._labels is not None
        labels = [self._labels[n] for n, _, _ in drawn]
        if self._kind == SEQUENCE:
            losses = [
                torch.nn.functional.ctc_loss(
                    z[:, None].log_softmax(2), torch.from_numpy(y[None].astype(np.int64)), torch.tensor([len(z)]),
                    torch.tensor([len(y)]), reduction="sum", zero_infinity=True,
                )
                for z, y in zip(logits, labels, strict=True)
            ]  # fmt: skip
            return torch.stack(losses).sum() / sum(map(len, logits))
        if not self._last:
            labels = [y[start:stop] for y, (_, start, stop) in zip(labels, drawn, strict=True)]
        wanted = torch.from_numpy(np.concatenate(labels))
        functional, rows = torch.nn.functional, torch.cat(logits)
        if self._kind == MULTI:
            return functional.binary_cross_entropy_with_logits(rows, wanted.float(), reduction="none").sum(1).mean()
        return functional.cross_entropy(rows, wanted.long())


def _embeddings(torch: Any, outputs: list[Any]) -> Any:
    """Rectified outputs of the last step of each sequence, [sequences, K]: embeddings but for their length."""
    return torch.stack([z[-1] for z in outputs]).relu()
