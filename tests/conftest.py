"""Small quantised networks for the tests of what users call."""

import signal

import numpy as np
import pytest

import fxp
import traces
from fxp.formats import Formats
from fxp.quantise import FloatLayer, build

# A shell that runs the tests in the background has them ignore interrupts, and so would the commands that they interrupt.
if signal.getsignal(signal.SIGINT) == signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)


def make_network(
    hidden=(5,), features=3, directions=1, projection=0, seed=0, embedding=0, classes=0, scope="step", metric=None,
    peepholes=False, **formats,
):  # fmt: skip
    """A network with random weights, lively enough for every controller to decide both ways."""
    rng = np.random.default_rng(seed)
    layers, inputs = [], features
    for size in hidden:
        output = projection or size
        shapes = [(4 * size, inputs), (4 * size, output), (4 * size,)] + ([(output, size)] if projection else [])
        arrays = [rng.normal(size=(directions, *shape)).astype(np.float32) for shape in shapes]
        peephole = rng.normal(size=(directions, 3 * size)).astype(np.float32) if peepholes else None
        layers.append(FloatLayer(*arrays[:3], arrays[3] if projection else None, peephole))
        inputs = directions * output
    table = rng.normal(size=(embedding, features)).astype(np.float32) if embedding else None
    calibration = [rng.normal(size=(50, features)).astype(np.float32)] if table is None else [table]
    head = None
    if classes:
        weight, bias = rng.normal(size=(classes, inputs)), rng.normal(size=classes)
        head = traces.Head(weight.astype(np.float32), bias.astype(np.float32), scope)
    options = {"embedding": table, "head": head, "metric": metric}
    return fxp.Network(build(layers, calibration, Formats(**formats), **options))


@pytest.fixture(scope="session", name="make_network")
def _make_network():
    return make_network
