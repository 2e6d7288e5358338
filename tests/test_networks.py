"""The bundled networks and the scripts that train them: parts are disjoint, files are what the scripts write."""

import subprocess
import sys

import numpy as np
import pytest

import accel
import fxp
import traces
from bench.networks import kjv
from fxp import networks
from fxp.quantise import requantise

DIGESTS = {
    "model.h5": "59ee49bc6a6f1ec4af32c43777825ad9ac976142c633654b94994f8e1b609135",
    "data.h5": "f901f47f0854f109ba36ff5fd224468d30ca222f1fbcda25f87cd6c6177e2a9d",
    "long.h5": "381d6ed696a6b110f3eb887a6b3ff5d96cbac0024e9a6468b33ea3035c7e2bd4",
    "calibration.h5": "6d042aad0a65def2a15ef32f2d1fb988b91dafa9e15daf3ea1d56862cc8897d9",
}


@pytest.fixture(scope="module")
def text():
    return kjv.read()


@pytest.fixture(scope="module")
def places(text):
    """The split of the text's character positions in place of its tokens, so that overlap can be seen."""
    return kjv.split(np.arange(len(text)))


def test_text_and_vocabulary(text):
    assert len(text) == 4298239
    symbols = kjv.vocabulary(text)
    assert len(symbols) == 73 and list(symbols) == sorted(set(text))
    tokens = kjv.encode(text, symbols)
    assert tokens.dtype == np.int32
    assert "".join(symbols[token] for token in tokens[:5000]) == text[:5000]
    with pytest.raises(ValueError, match="vocabulary"):
        kjv.encode("Æ", symbols)


def test_split_covers_the_text_once(text, places):
    runs = [*places.train, *places.calibration, *places.held_out]
    assert np.array_equal(np.sort(np.concatenate(runs)), np.arange(len(text)))
    assert all((np.diff(run) == 1).all() for run in runs)
    assert len(places.calibration) == len(places.held_out) == 5
    edges = np.linspace(0, len(text), 101).astype(int)
    assert [run[0] for run in places.held_out] == [edges[block] for block in (19, 39, 59, 79, 99)]
    assert [run[0] for run in places.calibration] == [edges[block] for block in (9, 29, 49, 69, 89)]


def test_pieces_do_not_overlap_and_stay_in_their_part(places):
    short, long = kjv.held_out_sequences(places)
    calibration = kjv.calibration_sequences(places)
    assert [(len(pieces), {len(piece) for piece in pieces}) for pieces in (short, long, calibration)] == [
        (256, {201}),
        (6, {3001}),
        (200, {201}),
    ]
    for pieces, runs in ((short + long, places.held_out), (calibration, places.calibration)):
        used = np.concatenate(pieces)
        assert len(np.unique(used)) == len(used)
        assert np.isin(used, np.concatenate(runs)).all()
        assert all((np.diff(piece) == 1).all() for piece in pieces)


def test_training_windows_stay_in_their_run(text, places):
    streams = kjv._Streams(places.train, seed=0)
    kept_out = np.zeros(len(text), bool)
    kept_out[np.concatenate([*places.calibration, *places.held_out])] = True
    before = None
    for _ in range(400):
        rows, going_on = streams.window()
        assert rows.shape == (kjv.STREAMS, kjv.WINDOW + 1)
        assert (np.diff(rows, axis=1) == 1).all() and not kept_out[rows].any()
        if before is None:
            assert not going_on.any()
        else:
            assert np.array_equal(rows[going_on, 0], before[going_on])
        before = rows[:, -1]


def test_too_many_pieces_are_refused():
    with pytest.raises(ValueError, match="run 0"):
        kjv.sequences([np.arange(100)], length=50, count=2)


@pytest.mark.torch
def test_checkpoint_keeps_weights_and_scores(tmp_path, text):
    torch = pytest.importorskip("torch")
    symbols = kjv.vocabulary(text)
    parts = kjv.split(kjv.encode(text, symbols))
    network = kjv.build(len(symbols)).eval()
    pieces = kjv.held_out_sequences(parts)[0][:4]
    bits = kjv.evaluate(network, pieces)
    kjv.save_checkpoint(network, symbols, tmp_path / "kjv.pt")
    again, stored = kjv.load_checkpoint(tmp_path / "kjv.pt")
    assert stored == symbols and [path.name for path in tmp_path.iterdir()] == ["kjv.pt"]
    assert np.array_equal(kjv.evaluate(again, pieces), bits)
    # Untrained, the network can be little better or worse than a uniform guess among the symbols.
    assert abs(bits.mean() - np.log2(len(symbols))) < 0.3
    # One piece by hand: the mean of -log2 of the softmax at the label.
    with torch.no_grad():
        tokens = torch.from_numpy(pieces[0].astype(np.int64))
        logits = (
            network["head"](network["lstm"](network["embedding"](tokens[None, :-1]))[0])[0].double().numpy()
        )
    chance = np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True)
    expected = -np.log2(chance[np.arange(200), pieces[0][1:]]).mean()
    assert abs(bits[0] - expected) < 1e-5


def test_names_and_places():
    assert networks.names() == ["kjv"]
    assert networks.path("kjv") == networks.path("kjv", "model.h5") and networks.path("kjv").is_file()
    with pytest.raises(traces.InputError, match=r"'kvj'.*kjv"):
        networks.path("kvj")
    for file in ("none.h5", "", ".", "../__init__.py"):
        with pytest.raises(traces.InputError, match=r"calibration\.h5, data\.h5, long\.h5, model\.h5"):
            networks.path("kjv", file)


def test_finding_a_network_imports_neither_numba_nor_torch():
    code = (
        "import sys; from fxp import networks; networks.path('kjv'); "
        "print(sorted({'numba', 'torch'} & set(sys.modules)))"
    )
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert found.stdout.strip() == "[]"


def test_bundled_files_are_small_and_carry_their_licence():
    folder = networks.path("kjv").parent
    assert {path.name for path in folder.iterdir()} == {*DIGESTS, "LICENCE.md"}
    assert sum(path.stat().st_size for path in folder.iterdir()) < 5_000_000
    # The legend has to go wherever the packaged text goes.
    licence = " ".join((folder / "LICENCE.md").read_text(encoding="utf-8").replace(">", " ").split())
    assert "This file is provided for unrestricted use provided that this legend is included" in licence
    for file in DIGESTS:
        about = traces.open(networks.path("kjv", file))
        assert about.metric == "bits_per_character" and about.name and about.origin
        assert "LICENCE.md" in about.licence


@pytest.mark.parametrize("file", DIGESTS)
def test_bundled_content_is_the_recorded_one(file):
    # Quoted results are of these weights and sequences: whoever changes them has to measure again.
    assert traces.open(networks.path("kjv", file)).digest() == DIGESTS[file]


def test_bundled_data_is_what_the_script_cuts(text):
    parts = kjv.split(kjv.encode(text, kjv.vocabulary(text)))
    short, long = kjv.held_out_sequences(parts)
    written = {"data.h5": short, "long.h5": long, "calibration.h5": kjv.calibration_sequences(parts)}
    for file, pieces in written.items():
        data = traces.Data.read(networks.path("kjv", file))
        assert data.scope == "step" and data.tokens and len(data) == len(pieces)
        for number, piece in enumerate(pieces):
            assert np.array_equal(data.sequence(number), piece[:-1])
            assert np.array_equal(data.sequence_labels(number), piece[1:])


def test_bundled_model_is_its_float_weights_quantised():
    network = fxp.load(networks.path("kjv"))
    calibration = traces.Data.read(networks.path("kjv", "calibration.h5"))
    assert requantise(network.model, calibration, network.formats).digest() == DIGESTS["model.h5"]


def test_eight_bits_keep_the_bundled_networks_quality():
    network = fxp.load(networks.path("kjv"))
    data = traces.Data.read(networks.path("kjv", "data.h5"))
    # Every 16th sequence, so that all five held-out blocks take part.
    chosen = range(0, len(data), 16)
    sample = traces.Data.of(
        [data.sequence(number) for number in chosen],
        [data.sequence_labels(number) for number in chosen],
        metric=data.metric,
    )
    table = fxp.evaluate(network, sample, controllers=["float", accel.Static(8), accel.Static(4)])
    floating, high, low = (row.metric for row in table)
    assert table.metric == "bits_per_character" and table.steps == 16 * 200
    # An untrained network needs log2(73) = 6.2 bits; below 2.1 it has learnt words, not letter counts alone.
    assert high < 2.1
    # 0.01 bits is far less than 4 bits cost, so that a fault in the high-precision path would show.
    assert abs(high - floating) < 0.01 < 0.05 < low - high
    assert table[1].overflows == 0 and table[1].low_share == 0.0
