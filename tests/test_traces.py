"""Files as they should be: round trips, digests, streaming, the golden files, the generated page."""

import dataclasses
import hashlib
import itertools
import json
import os
from pathlib import Path
from unittest import mock

import h5py
import numpy as np
import pytest
import traces_samples as samples
from hypothesis import given, settings
from hypothesis import strategies as st

import traces
from traces import columns, plan, schema, store

ROOT = Path(__file__).resolve().parent.parent
SETTINGS = settings(max_examples=40, deadline=None, derandomize=True)


def same(a, b):
    """Exact equality of two dataclasses of arrays and plain values."""
    assert type(a) is type(b)
    for field in dataclasses.fields(a):
        x, y = getattr(a, field.name), getattr(b, field.name)
        if dataclasses.is_dataclass(x):
            same(x, y)
        elif isinstance(x, list) and x and dataclasses.is_dataclass(x[0]):
            assert len(x) == len(y)
            for one, other in zip(x, y, strict=True):
                same(one, other)
        elif isinstance(x, (np.ndarray, np.generic)):
            assert x.dtype == y.dtype and x.shape == y.shape, field.name
            assert x.tobytes() == y.tobytes(), field.name
        else:
            assert x == y, field.name


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"directions": 1, "projection": 3},
        {"peepholes": True, "projection": 3},
        {"projection": 3},
        {"embedding": 7, "layers": 1},
        {"high": 7, "low": 3},
        {"high": 8, "low": 8},
        {"high": 2, "low": 2},
        {"hidden": 70, "inputs": 65, "layers": 3},
    ],
)
def test_model_round_trip(tmp_path, options):
    model = samples.model(**options)
    model.write(tmp_path / "m.h5")
    read = traces.open(tmp_path / "m.h5")
    same(model, read)
    assert read.digest() == model.digest()


def test_model_without_head(tmp_path):
    model = dataclasses.replace(samples.model(), head=None, metric=None)
    model.write(tmp_path / "m.h5")
    same(model, traces.Model.read(tmp_path / "m.h5"))


def test_model_digest_sees_every_number():
    model = samples.model(seed=1, projection=3, embedding=4, peepholes=True)
    seen = {model.digest()}
    for name in [f.name for f in dataclasses.fields(traces.Layer)][5:]:
        array = np.array(getattr(model.layers[1], name))
        array.reshape(-1)[-1] += 1
        layers = [model.layers[0], dataclasses.replace(model.layers[1], **{name: array})]
        seen.add(dataclasses.replace(model, layers=layers).digest())
    for name, value in {
        "high": 7,
        "low": 3,
        "profile": "fixed",
        "accumulator_bits": 23,
        "overflow": "clamp",
    }.items():
        seen.add(dataclasses.replace(model, **{name: value}).digest())
    seen.add(dataclasses.replace(model, head=dataclasses.replace(model.head, scope="step")).digest())
    seen.add(dataclasses.replace(model, embedding=model.embedding + 1).digest())
    assert len(seen) == 1 + 18 + 5 + 2
    assert dataclasses.replace(model, licence="other", calibration={}).digest() == model.digest()


def test_digest_ignores_storage(tmp_path):
    data = samples.data(lengths=(300, 500))
    data.write(tmp_path / "d.h5")
    with h5py.File(tmp_path / "d.h5") as a, h5py.File(tmp_path / "plain.h5", "w", libver="v110") as b:
        for name in ("format", "version", "name", "origin", "licence"):
            b.attrs.create(name, a.attrs[name], dtype=a.attrs.get_id(name).dtype)
        for name in a:
            b.create_dataset(name, data=a[name][()])
    with traces.open(tmp_path / "plain.h5") as plain:
        assert plain.digest() == data.digest()


def test_digest_is_what_it_says():
    digest = store.Digest("x")
    digest.array("a", "<f4", (2,), [np.array([1], "<f4"), np.array([2], "<f4")])
    name = b"a=<f4[2]"
    content = b"x\0" + len(name).to_bytes(8, "little") + name + np.array([1, 2], "<f4").tobytes()
    assert digest.hex() == hashlib.sha256(content).hexdigest()


@SETTINGS
@given(
    lengths=st.lists(st.integers(1, 40), min_size=1, max_size=12),
    features=st.integers(0, 5),
    scope=st.sampled_from([None, "step", "last", "targets", "sequence"]),
    seed=st.integers(0, 2**32),
)
def test_data_round_trip(tmp_path_factory, lengths, features, scope, seed):
    path = tmp_path_factory.mktemp("data") / "d.h5"
    data = samples.data(seed, features, scope, lengths)
    data.write(path)
    same(data, traces.Data.read(path))
    with traces.open(path, kind="data") as file:
        assert (len(file), file.total, file.features) == (len(lengths), sum(lengths), features)
        assert file.lengths.tolist() == list(lengths)
        assert file.digest() == data.digest()
        for number, values in enumerate(file):
            assert values.tobytes() == data.sequence(number).tobytes()
            assert file.chunk(number, 1, 3).tobytes() == values[1:3].tobytes()
            if scope:
                labels = file.sequence_labels(number)
                assert labels.dtype == (np.uint8 if scope == "targets" else np.int32)
                assert labels.tolist() == data.sequence_labels(number).tolist()
                counts = {"step": len(values), "last": 1, "sequence": len(values) // 2}
                assert len(labels) == counts[file.scope]


@pytest.mark.parametrize("scope", [None, "step", "last", "targets", "sequence"])
def test_data_is_of_the_lowest_version_that_holds_it(tmp_path, scope):
    data = samples.data(scope=scope)
    new = scope in ("targets", "sequence")
    assert (data.scope, data.targets) == ("step" if scope == "targets" else scope, 3 * (scope == "targets"))
    for content in (data, dataclasses.replace(data, groups=np.zeros(3, np.int32)), dataclasses.replace(data, groups=None)):
        content.write(tmp_path / "d.h5")
        with h5py.File(tmp_path / "d.h5") as file:
            assert file.attrs["version"] == (2 if new or content.groups is not None else 1)
        same(content, traces.Data.read(tmp_path / "d.h5"))
    assert schema.VERSIONS == {"model": 2, "data": 2, "trace": 2, "estimate": 1}


def test_data_digest_sees_labels_and_groups():
    digests = set()
    for scope in (None, "step", "last", "targets", "sequence"):
        data = samples.data(scope=scope)
        digests.add(data.digest())
        digests.add(dataclasses.replace(data, groups=np.array([5, 6, 7], np.int32)).digest())
        if scope:
            changed = data.labels.copy()
            changed.reshape(-1)[-1] ^= 1
            digests.add(dataclasses.replace(data, labels=changed).digest())
    moved = samples.data(scope="sequence")
    digests.add(dataclasses.replace(moved, label_offsets=moved.label_offsets * [1, 1, 0, 1]).digest())
    assert len(digests) == 5 + 5 + 4 + 1


def test_a_label_sequence_may_be_empty(tmp_path):
    data = traces.Data.of([np.zeros((2, 1)), np.ones((1, 1))], [[], [4, 0, 4]], "sequence")
    data.write(tmp_path / "d.h5")
    read = traces.Data.read(tmp_path / "d.h5")
    assert [read.sequence_labels(n).tolist() for n in range(2)] == [[], [4, 0, 4]] and read.label_count == 3


@pytest.mark.parametrize("features", [0, 3])
@pytest.mark.parametrize("scope", [None, "step", "last", "targets", "sequence"])
def test_data_in_pieces_is_the_same_data(tmp_path, features, scope):
    data = samples.data(features=features, scope=scope, lengths=(5, 1, 9000))
    about = {"name": "sample", "licence": "MIT", "targets": data.targets}
    with traces.DataWriter(tmp_path / "d.h5", features, data.scope, **about) as writer:
        for number, values in enumerate(data):
            labels = data.sequence_labels(number) if scope else None
            cut = max(1, len(values) // 3)
            step = data.scope == "step"
            group = None if data.groups is None else int(data.groups[number])
            writer.append(values[:cut], labels[:cut] if step else labels, id=int(data.ids[number]), group=group)
            if cut < len(values):
                writer.extend(values[cut:], labels[cut:] if step else None)
    same(data, traces.Data.read(tmp_path / "d.h5"))


@pytest.mark.parametrize("profile", ["float32", "fixed"])
def test_trace_round_trip(tmp_path, profile):
    lengths = (3, 1, 700)
    written = samples.trace(tmp_path / "t.h5", lengths=lengths, profile=profile)
    with traces.open(tmp_path / "t.h5") as trace:
        assert isinstance(trace, traces.Trace)
        assert (trace.high, trace.low, trace.seed, trace.profile) == (8, 4, 7, profile)
        assert trace.controller == {"name": "Peak", "beta": 0.1}
        assert trace.model_digest == "ab" * 32 and trace.data_digest == ""
        assert trace.ids.tolist() == [0, 1, 2] and trace.lengths.tolist() == list(lengths)
        for (number, direction), content in written.items():
            layer = trace.layers[number]
            sizes = (
                layer.input_size,
                layer.hidden_size,
                layer.output_size,
                layer.directions,
                layer.projected,
            )
            assert sizes == samples.SIZES[number]
            for sequence in range(3):
                start, stop = trace.bounds(sequence)
                for name, values in content.items():
                    read = getattr(layer, name)(sequence, direction)
                    assert read.dtype == values.dtype and (read == values[start:stop]).all()
                assert layer.low_count[direction, sequence] == content["low"][start:stop].sum()
            assert (layer.packed(2, 9, direction) == plan.pack(content["low"][2:9])).all()
            assert layer.overflow_count[direction].tolist() == [0, 1, 2]
        low = sum(int(content["low"].sum()) for content in written.values())
        cells = sum(content["low"].size for content in written.values())
        assert trace.low_share == low / cells
        first = [content["low"] for (number, _), content in written.items() if number == 0]
        assert trace.layers[0].low_share == np.mean(first)


def test_trace_with_peepholes_needs_version_2(tmp_path):
    plain, marked = tmp_path / "plain.h5", tmp_path / "marked.h5"
    samples.trace(plain, record=())
    samples.trace(marked, layers=[samples.SIZES[0], *((*size, True) for size in samples.SIZES[1:])], record=())
    versions = []
    for path in (plain, marked):
        with h5py.File(path) as file:
            versions.append(int(file.attrs["version"]))
    assert versions == [1, 2]
    with traces.open(plain) as first, traces.open(marked) as second:
        assert not any(layer.peepholes for layer in first.layers)
        assert [layer.peepholes for layer in second.layers] == [False] + [True] * (len(samples.SIZES) - 1)
        assert first.digest() != second.digest()


def test_model_with_peepholes_needs_version_2(tmp_path):
    for peepholes in (False, True):
        samples.model(peepholes=peepholes).write(tmp_path / "m.h5")
        with h5py.File(tmp_path / "m.h5") as file:
            assert int(file.attrs["version"]) == 1 + peepholes


def test_trace_needs_no_states_and_its_digest_ignores_them(tmp_path):
    samples.trace(tmp_path / "full.h5", record=("cell",))
    samples.trace(tmp_path / "bare.h5", record=())
    with traces.open(tmp_path / "bare.h5") as bare, traces.open(tmp_path / "full.h5") as full:
        assert full.layers[0].recorded == ("cell",) and bare.layers[0].recorded == ()
        with pytest.raises(traces.InputError, match="cell was not recorded"):
            bare.layers[0].cell(0)
    samples.trace(tmp_path / "other.h5", seed=1, record=())
    digests = []
    for name in ("bare", "other"):
        with traces.open(tmp_path / f"{name}.h5") as trace:
            digests.append(trace.digest())
    assert digests[0] != digests[1]


@SETTINGS
@given(hidden=st.integers(1, 40), steps=st.integers(1, 30), seed=st.integers(0, 2**32))
def test_plan_packing(hidden, steps, seed):
    low = np.random.default_rng(seed).random((steps, hidden)) < 0.5
    packed = plan.pack(low)
    assert packed.shape == (steps, -(-hidden // 8)) and packed.dtype == np.uint8
    assert (plan.unpack(packed, hidden) == low).all()
    assert plan.count(packed) == low.sum() and plan.padded(packed, hidden)
    for step in range(steps):
        for k in range(hidden):
            assert packed[step, k // 8] >> k % 8 & 1 == low[step, k]
    if hidden % 8:
        packed[0, -1] |= 1 << 7
        assert not plan.padded(packed, hidden)


@SETTINGS
@given(
    seed=st.integers(0, 2**32), steps=st.integers(1, 400), hidden=st.sampled_from([3, 64, 4000]),
    kept=st.sampled_from([1, 2, 64]), repeating=st.booleans(),
)  # fmt: skip
def test_rows_may_be_written_in_any_order_and_size(tmp_path_factory, seed, steps, hidden, kept, repeating):
    """Chunks are filled from several sides and in pieces, whether they are kept or not; 4,000 elements make a chunk of 524
    rows."""
    rng = np.random.default_rng(seed)
    steps *= 4
    low = rng.random((steps, hidden)) < 0.5
    if repeating:
        low[1:] = low[0]
    cuts = np.unique(np.concatenate([[0, steps], rng.integers(0, steps, 6)]))
    pieces = list(itertools.pairwise(cuts))
    rng.shuffle(pieces)
    path = tmp_path_factory.mktemp("trace") / "t.h5"
    with mock.patch.object(columns, "OPEN", kept), traces.TraceWriter(
        path, lengths=[steps], ids=[9], layers=[(1, hidden, hidden, 1, False)], controller={"name": "x"}
    ) as writer:
        for start, stop in pieces:
            rows = low[start:stop]
            writer.write(0, 0, int(start), plan.pack(rows) if start % 2 else rows)
            writer.count(0, 0, 0, low=int(rows.sum()))
    with traces.open(path, kind="trace") as trace:
        assert trace.ids.tolist() == [9]
        assert (trace.layers[0].low(0) == low).all()


def test_a_long_trace_is_small(tmp_path):
    """Two million steps that never run low: the file stays far below a bit an element-step."""
    steps, rows = 2_000_000, np.zeros((8000, 8), np.uint8)
    with traces.TraceWriter(
        tmp_path / "t.h5", lengths=[steps], layers=[(4, 64, 64, 1, False)], controller={"name": "Static"}
    ) as writer:
        for row in range(0, steps, len(rows)):
            writer.write(0, 0, row, rows)
    assert os.path.getsize(tmp_path / "t.h5") < 200_000
    with traces.open(tmp_path / "t.h5") as trace:
        assert trace.low_share == 0 and not trace.layers[0].packed(steps - 5, steps).any()


def test_estimate_round_trip(tmp_path):
    estimate = samples.estimate()
    big = dataclasses.replace(estimate, record={"rows": ["µ" * 10] * 20_000}, baseline=None)
    for content in (estimate, big):
        content.write(tmp_path / "e.h5")
        same(content, traces.open(tmp_path / "e.h5"))


GOLDEN = json.loads((ROOT / "tests/golden/digests.json").read_text())


@pytest.mark.parametrize("name", sorted(GOLDEN))
def test_golden_files_stay_readable(name):
    path = ROOT / "tests/golden" / name
    assert path.stat().st_size < 20_000
    content = traces.open(path)
    if isinstance(content, traces.Estimate):
        same(content, samples.estimate())
        return
    assert content.digest() == GOLDEN[name]
    if not isinstance(content, traces.Model):
        content.close()


def test_formats_page_is_generated():
    assert (ROOT / "docs/formats.md").read_text(encoding="utf-8") == schema.markdown()


def test_page_names_everything():
    page = schema.markdown()

    def names(group):
        for entry in (*group.attributes, *group.arrays):
            yield entry.name
        for child in group.groups:
            yield child.name
            yield from names(child)

    for kind, group in schema.SCHEMAS.items():
        section = page.split(f"`fxp-lstm/{kind}`\n")[1].split("\n## ")[0]
        for name in names(group):
            assert f"{name}" in section
