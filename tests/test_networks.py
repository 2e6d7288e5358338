"""The scripts that train the bundled networks: their texts are as stated, their parts are disjoint."""

import importlib.util
import sys
from pathlib import Path

import numpy as np
import pytest

SCRIPTS = Path(__file__).parents[1] / "bench" / "networks"


def script(name):
    # `bench` is not installed, so that the tests find it by its place in the repository.
    spec = importlib.util.spec_from_file_location(f"bench_networks_{name}", SCRIPTS / f"{name}.py")
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    return module


kjv = script("kjv")


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
