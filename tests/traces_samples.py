"""Small valid content of every kind of file, seeded, for the tests of traces and the golden files."""

import itertools

import numpy as np

import traces


def layer(rng, inputs, hidden, directions=1, projection=0, high=8, low=4, x_scale=None, peepholes=False):
    """A valid layer with random weights."""
    outputs = projection or hidden
    top, shift = 2 ** (high - 1) - 1, high - low

    def floats(*shape):
        return rng.standard_normal((directions, *shape)).astype(np.float32)

    def indices(*shape):
        return rng.integers(-top, top + 1, (directions, *shape)).astype(np.int8)

    def offsets(index):
        return ((index >> shift < 2 ** (low - 1) - 1) & rng.integers(0, 2, index.shape)).astype(np.uint8)

    wx, wh = indices(4 * hidden, inputs), indices(4 * hidden, outputs)
    return traces.Layer(
        input_size=inputs, hidden_size=hidden, output_size=outputs, directions=directions,
        projected=projection > 0,
        wx_float=floats(4 * hidden, inputs), wh_float=floats(4 * hidden, outputs),
        bias=floats(4 * hidden), low_bias=floats(4 * hidden),
        wx_index=wx, wh_index=wh, wx_offset=offsets(wx), wh_offset=offsets(wh),
        wx_scale=abs(floats(4 * hidden)), wh_scale=abs(floats(4 * hidden)),
        x_scale=np.float32(0.03) if x_scale is None else x_scale, h_scale=np.float32(2.0 ** -(high - 1)),
        input_scale=np.ones(inputs, np.float32),
        wp_float=floats(outputs, hidden) if projection else None,
        wp_index=indices(outputs, hidden) if projection else None,
        wp_scale=abs(floats(outputs)) if projection else None,
        m_scale=np.float32(2.0 ** -(high - 1)) if projection else None,
        peephole=floats(3 * hidden) if peepholes else None,
    )  # fmt: skip


def model(
    seed=0, high=8, low=4, directions=2, projection=0, layers=2, inputs=5, hidden=6, embedding=0, peepholes=False
):
    """A valid model."""
    rng = np.random.default_rng(seed)
    stack = [layer(rng, inputs, hidden, directions, projection, high, low, peepholes=peepholes)]
    while len(stack) < layers:
        below = stack[-1]
        width = below.directions * below.output_size
        stack.append(layer(rng, width, hidden, directions, projection, high, low, below.h_scale, peepholes))
    width = directions * stack[-1].output_size
    head = traces.Head(
        rng.standard_normal((3, width)).astype(np.float32),
        rng.standard_normal(3).astype(np.float32),
        scope="last",
    )
    table = rng.standard_normal((embedding, inputs)).astype(np.float32) if embedding else None
    return traces.Model(
        "sample", stack, high=high, low=low, embedding=table, head=head, metric="accuracy",
        calibration={"range": [0.5, 1.25], "percentile": None}, origin="drawn at random", licence="MIT",
    )  # fmt: skip


def data(seed=0, features=5, scope="step", lengths=(3, 1, 7)):
    """Valid data; label sequences, several labels a step and groups need version 2."""
    rng = np.random.default_rng(seed)
    if features:
        sequences = [rng.standard_normal((length, features)).astype(np.float32) for length in lengths]
    else:
        sequences = [rng.integers(0, 9, length).astype(np.int32) for length in lengths]
    labels = {
        None: None,
        "step": [rng.integers(0, 4, length) for length in lengths],
        "last": rng.integers(0, 4, len(lengths)),
        "targets": [rng.integers(0, 2, (length, 3)) for length in lengths],
        "sequence": [rng.integers(0, 4, length // 2) for length in lengths],
    }[scope]
    return traces.Data.of(
        sequences, labels, "sequence" if scope == "sequence" else None,
        ids=[40 + k for k in range(len(lengths))], name="sample", licence="MIT",
        groups=[k % 2 for k in range(len(lengths))] if scope in ("targets", "sequence") else None,
    )  # fmt: skip


SIZES = [(5, 6, 6, 2, False), (12, 11, 4, 2, True)]
"""Layers of the sample trace."""


def trace(
    path,
    seed=0,
    lengths=(3, 1, 7),
    layers=SIZES,
    record=("cell", "hidden", "accumulators"),
    profile="float32",
):
    """Write a valid trace; returns what was written as {(layer, direction): {name: array}}."""
    rng = np.random.default_rng(seed)
    total, written = sum(lengths), {}
    bounds = np.concatenate([[0], np.cumsum(lengths)])
    with traces.TraceWriter(
        path, lengths=lengths, layers=layers, record=record, controller={"name": "Peak", "beta": 0.1}, seed=7,
        profile=profile, model_digest="ab" * 32, package_version="0.1.0",
    ) as writer:  # fmt: skip
        for number, (_, hidden, outputs, directions, *_) in enumerate(layers):
            for direction in range(directions):
                cell = rng.standard_normal((total, hidden)) * 3
                content = {
                    "low": rng.random((total, hidden)) < 0.6,
                    "cell": (cell * 2048).astype(np.int16) if profile == "fixed" else cell.astype(np.float32),
                    "hidden": rng.integers(-127, 128, (total, outputs)).astype(np.int8),
                    "accumulators": rng.integers(-(2**23), 2**23, (total, 2, 4 * hidden)).astype(np.int32),
                }
                content = {name: value for name, value in content.items() if name in ("low", *record)}
                written[number, direction] = content
                for sequence, (start, stop) in enumerate(itertools.pairwise(bounds)):
                    rows = {name: value[start:stop] for name, value in content.items()}
                    writer.write(number, direction, int(start), **rows)
                    writer.count(number, direction, sequence, low=int(rows["low"].sum()), overflow=sequence)
    return written


def estimate():
    """A valid estimate."""
    return traces.Estimate(
        machine="epur-dyn", baseline="epur-sip", trace_digest="cd" * 32, record={"speedup": 1.5, "note": "µ"},
        components=["weight buffers", "dram"],
        dynamic_pj=np.array([1.5, 2.25]), static_pj=np.array([0.5, 0.0]),
        area_mm2=np.array([10.0, 0.0]), layer_cycles=np.array([[10, 20], [30, 40]]),
    )  # fmt: skip
