"""The bundled networks and the scripts that train them: parts are disjoint, files are what the scripts write."""

import contextlib
import hashlib
import io
import json
import shutil
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from xml.etree import ElementTree

import numpy as np
import pytest

import accel
import fxp
import traces
from bench.networks import kjv, noisy, table
from fxp import cli, intervals, networks
from fxp.evaluation import emulate_scored, float_totals
from fxp.intervals import student_quantile
from fxp.networks import chorales, evaluation, fetch, halves, kjv_512, registry, tolerated
from fxp.observation import subset
from fxp.quantise import requantise
from fxp.scoring import Loss, Scorer

DIGESTS = networks.entry("kjv").digests


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
        (800, {201}),
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
    network = kjv.build(len(symbols), hidden=48).eval()
    pieces = kjv.held_out_sequences(parts)[0][:4]
    bits = kjv.evaluate(network, pieces)
    kjv.save_checkpoint(network, symbols, tmp_path / "kjv.pt")
    again, stored = kjv.load_checkpoint(tmp_path / "kjv.pt")
    assert again["lstm"].hidden_size == 48 and stored == symbols and [path.name for path in tmp_path.iterdir()] == ["kjv.pt"]
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


@pytest.mark.torch
def test_training_is_reproducible_and_leaves_one_bias(text):
    torch = pytest.importorskip("torch")
    symbols = kjv.vocabulary(text)
    parts = kjv.split(kjv.encode(text, symbols))
    start, first, second = (kjv.train(parts, symbols, iterations, hidden=16) for iterations in (0, 2, 2))
    assert start["embedding"].weight.abs().max() <= kjv.EMBEDDING_RANGE
    assert not torch.equal(start["lstm"].weight_hh_l0, first["lstm"].weight_hh_l0)
    assert not first["lstm"].bias_hh_l0.any() and first["lstm"].weight_ih_l0.shape == (64, kjv.EMBEDDING)
    assert all(torch.equal(value, second.state_dict()[name]) for name, value in first.state_dict().items())
    plain = kjv.train_plain(parts, symbols, iterations=1, hidden=16)
    assert plain["lstm"].bias_hh_l0.any()


@pytest.mark.torch
def test_noise_and_masks_are_of_the_stated_size():
    torch = pytest.importorskip("torch")
    torch.manual_seed(1)
    lstm = torch.nn.LSTM(3, 5, batch_first=True)
    bias = (lstm.bias_ih_l0 + lstm.bias_hh_l0).detach().clone()
    noisy.one_bias(lstm)
    assert torch.equal(lstm.bias_ih_l0, bias) and not lstm.bias_hh_l0.any() and not lstm.bias_hh_l0.requires_grad
    x = torch.randn(4, 6, 3)
    whole, (h, c) = lstm(x)
    first, state = noisy.run(lstm, x[:, :2], 0.0, 0.0)
    second, after = noisy.run(lstm, x[:, 2:], 0.0, 0.0, state)
    assert torch.allclose(torch.cat([first, second], 1), whole, atol=1e-6)
    assert torch.allclose(after[0], h, atol=1e-6) and torch.allclose(after[1], c, atol=1e-6)
    # i and o open, f closed: h shows the noisy pre-activation of g, whose spread is 0.2 times the norm of the row.
    lstm = torch.nn.LSTM(2, 1, batch_first=True)
    with torch.no_grad():
        for weights in lstm.parameters():
            weights.zero_()
        lstm.weight_ih_l0[2] = torch.tensor([0.03, 0.04])
        lstm.bias_ih_l0[:2] = torch.tensor([30.0, -30.0])
        lstm.bias_ih_l0[3] = 30.0
        g = torch.cat([torch.atanh(torch.atanh(noisy.run(lstm, torch.zeros(64, 64, 2), 0.0, 0.2)[0])) for _ in range(16)])
        assert float(g.std()) == pytest.approx(0.2 * 0.05, rel=0.15) and abs(float(g.mean())) < 0.001
        kept = [float(noisy.run(lstm, torch.ones(1, 1, 2), 0.5, 0.0)[0]) for _ in range(200)]
    assert len({round(value, 4) for value in kept}) == 4 and max(kept) == pytest.approx(np.tanh(np.tanh(0.14)), abs=1e-4)


def test_names_and_places():
    assert networks.names() == ["chorales", "g2p", "kjv", "kjv-512", "reviews", "speaker"]
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
    assert network.digest == DIGESTS["model.h5"]
    (made,), (stored,) = requantise(network.model, calibration, network.formats).layers, network.layers
    for name in ("wx_index", "wh_index", "wx_offset", "wh_offset", "wx_scale", "wh_scale", "bias", "low_bias"):
        assert np.array_equal(getattr(made, name), getattr(stored, name)), name
    # The scales of features were fitted, and so was the range of h: not the one that is given otherwise.
    assert len(np.unique(stored.input_scale)) > 1 and stored.h_scale != made.h_scale == np.float32(2**-7)


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
    assert abs(high - floating) < 0.01 < 0.02 < low - high
    assert table[1].overflows == 0 and table[1].low_share == 0.0


@pytest.mark.parametrize("name", networks.names())
def test_bundled_content_is_the_recorded_one(name):
    # Quoted results are of these weights and sequences: whoever changes them has to measure again.
    entry = networks.entry(name)
    assert set(entry.digests) == {file for file in entry.files if file.endswith(".h5")}
    for file in set(entry.digests) - set(entry.made):
        assert traces.open(networks.path(name, file)).digest() == entry.digests[file]


def test_the_bundle_stays_small_and_every_part_has_its_licence():
    files = [path for path in networks.path("kjv").parents[1].rglob("*.*") if path.suffix in (".h5", ".json", ".npz", ".txt")]
    assert sum(path.stat().st_size for path in files) < 25_000_000
    assert all(path.stat().st_size < 5_000_000 and (path.parent / "LICENCE.md").is_file() for path in files)


def test_vocabularies_say_what_tokens_are(text):
    assert networks.entry("kjv").vocabulary == networks.entry("kjv-512").vocabulary == kjv.vocabulary(text)
    assert networks.entry("kjv-512").borrowed["data.h5"] == "kjv"
    words = json.loads(networks.path("reviews", "vocabulary.json").read_text(encoding="utf-8"))
    model = traces.open(networks.path("reviews"))
    with traces.open(networks.path("reviews", "data.h5")) as data:
        assert len(words) == len(set(words)) == len(model.embedding) and data.values.max() < len(words)
        assert data.scope == "last" and len(data) == 3000 and 0.4 < data.labels.mean() < 0.6
    with traces.open(networks.path("reviews", "calibration.h5")) as calibration:
        assert len(calibration) == 800


def test_the_larger_model_is_made_with_the_recorded_content(tmp_path):
    state = halves.read(kjv_512.FOLDER)
    assert {key: value.shape for key, value in state.items() if "weight" in key} == {
        "embedding.weight": (73, 32), "lstm.weight_ih_l0": (2048, 32), "lstm.weight_hh_l0": (2048, 512), "head.weight": (73, 512),
    }  # fmt: skip
    halves.write(state, tmp_path)
    assert all(np.array_equal(value, state[key]) for key, value in halves.read(tmp_path).items())
    assert kjv_512.model().digest() == networks.entry("kjv-512").digests["model.h5"]
    (tmp_path / halves.FILE).write_bytes(b"no archive")
    with pytest.raises(traces.InputError, match=r"weights\.npz: cannot be read"):
        halves.read(tmp_path)


# Building


def test_bundled_files_are_copied_and_damaged_ones_replaced(tmp_path):
    built = networks.build("reviews", tmp_path / "r")
    assert {path.name for path in (tmp_path / "r").iterdir()} == set(networks.entry("reviews").files) == set(built)
    before = built["data.h5"].stat().st_mtime_ns
    built["model.h5"].write_bytes(b"other")
    networks.build("reviews", tmp_path / "r")
    assert built["model.h5"].read_bytes() == networks.path("reviews").read_bytes()
    assert built["data.h5"].stat().st_mtime_ns == before
    (tmp_path / "file").touch()
    with pytest.raises(traces.InputError, match="cannot be made a folder"):
        networks.build("reviews", tmp_path / "file")


def test_made_files_go_to_the_cache_and_are_held_against_their_digest(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    with pytest.raises(traces.InputError, match="fxp networks build chorales"):
        networks.path("chorales", "data.h5")
    rolls = [np.eye(88, dtype=np.uint8)[:4], np.eye(88, dtype=np.uint8)[7:9]]
    monkeypatch.setattr(chorales, "_parts", lambda: ([], rolls, rolls[:1]))
    with pytest.raises(traces.InputError, match="differs from what its results were measured with"):
        networks.build("chorales")
    monkeypatch.setitem(registry.ENTRIES, "chorales", replace(networks.entry("chorales"), digests={}))
    built = networks.build("chorales")
    assert networks.path("chorales", "data.h5") == built["data.h5"] == tmp_path / "fxp-lstm/networks/chorales/data.h5"
    read = traces.Data.read(networks.path("chorales", "calibration.h5"))
    assert len(read) == 2 and read.targets == 88
    assert not read.sequence(0)[0].any() and np.array_equal(read.sequence(0)[1:], rolls[0][:-1])
    assert np.array_equal(read.sequence_labels(0), rolls[0])


def test_a_package_is_taken_by_its_checksum_alone(tmp_path, monkeypatch):
    content, calls = [b"another"], []
    package = fetch.Package("Sample", "1.0", hashlib.sha256(b"a package").hexdigest(), False, "MIT")

    def pip(command, **options):
        calls.append(command)
        (Path(command[-1]) / "Sample-1.0-py3-none-any.whl").write_bytes(content[0])
        return subprocess.CompletedProcess(command, 0, "", "")

    monkeypatch.setattr(fetch.subprocess, "run", pip)
    with pytest.raises(traces.InputError, match="another checksum"):
        fetch.fetch(package, tmp_path)
    assert not list(tmp_path.iterdir())
    content[0] = b"a package"
    place = fetch.fetch(package, tmp_path)
    assert place.read_bytes() == content[0] and len(calls) == 2 and "--require-hashes" in calls[0]
    assert fetch.fetch(package, tmp_path) == place and len(calls) == 2
    failed = subprocess.CompletedProcess([], 1, "", "no\nnet")
    monkeypatch.setattr(fetch.subprocess, "run", lambda command, **_: failed)
    with pytest.raises(traces.InputError, match="cannot be fetched with pip: net"):
        fetch.fetch(replace(package, name="Other"), tmp_path)


# Chorales


def test_a_score_becomes_a_piano_roll():
    def note(step, octave, duration, extra="", alter=0):
        alteration = f"<alter>{alter}</alter>" if alter else ""
        pitch = f"<pitch><step>{step}</step>{alteration}<octave>{octave}</octave></pitch>"
        return f"<note>{extra}{pitch}<duration>{duration}</duration></note>"

    rest = "<note><rest/><duration>2</duration></note>"
    grace = "<note><grace/><pitch><step>D</step><octave>4</octave></pitch></note>"
    parts = [
        # A quarter, then two eighths of which the first sounds on the beat, then a half.
        note("C", 4, 2) + note("D", 4, 1) + note("E", 4, 1) + note("F", 4, 4, alter=1),
        # A whole note and, after a backup, a second voice.
        note("A", 0, 8) + "<backup><duration>8</duration></backup>" + rest + grace + note("C", 8, 6),
        # A chord, then a gap.
        note("G", 3, 2) + note("B", 3, 2, "<chord/>", -1) + "<forward><duration>4</duration></forward>" + note("C", 3, 2),
        rest * 4,
    ]
    start = "<part><measure><attributes><divisions>2</divisions></attributes>"
    body = "".join(f"{start}{part}</measure></part>" for part in parts)
    roll = chorales.roll_of(ElementTree.fromstring(f"<score-partwise>{body}</score-partwise>"))
    keys = [set((np.flatnonzero(row) + chorales.LOWEST).tolist()) for row in roll]
    assert keys == [{60, 21, 55, 58}, {62, 21, 108}, {66, 21, 108}, {66, 21, 108, 48}]
    assert chorales.roll_of(ElementTree.fromstring("<score-partwise><part/></score-partwise>")) is None


def test_chorales_are_ordered_by_number_and_split_without_overlap():
    assert sorted(["bwv10.7", "bwv2.6", "bwv1.6"], key=chorales._order) == ["bwv1.6", "bwv2.6", "bwv10.7"]
    parts = chorales.split([np.full((1, 1), n) for n in range(23)])
    found = [int(roll[0, 0]) for part in parts for roll in part]
    assert sorted(found) == list(range(23)) and [len(part) for part in parts] == [14, 5, 4]


# Evaluation


@pytest.mark.parametrize(
    ("value", "upper", "expected"),
    [(0.2, 0.5, "held"), (0.8, 1.2, "lost"), (0.2, 1.5, "undetermined"), (9, 11, "lost"), (-3, -1, "held"), (-3, 0.5, "undetermined"),
     (-3, -2.5, "held"), (0, None, "undetermined"), (0, 0, "held")],
)  # fmt: skip
def test_verdicts(value, upper, expected):
    assert evaluation.verdict(Loss(value, upper), 1.0) == expected


def test_tolerances_are_relative_for_bits_and_points_for_shares():
    assert networks.entry("kjv").tolerance(1.5) == pytest.approx(0.0015)
    assert networks.entry("reviews").tolerance(0.78) == 0.003
    assert networks.entry("reviews").tolerance(0.5, "cross_entropy") == pytest.approx(0.0005)


def test_rows_of_a_network_are_what_its_parts_give(tmp_path, monkeypatch):
    """All of `evaluate` on a slice of the reviews, from the command line, against calibration and evaluation."""
    for file in ("data.h5", "calibration.h5"):
        with traces.open(networks.path("reviews", file)) as whole:
            subset(whole, range(40)).write(tmp_path / file)
    shutil.copy(networks.path("reviews"), tmp_path / "model.h5")
    monkeypatch.setattr(networks, "build", lambda name, folder=None: {f: folder / f for f in registry.STANDARD})
    out = io.StringIO()
    arguments = ["--low-share", "57%", "-o", str(tmp_path), "--json", "--metric", "cross_entropy"]
    with contextlib.redirect_stdout(out), pytest.raises(SystemExit) as done:
        cli.main(["networks", "evaluate", "reviews", *arguments])
    result = json.loads(out.getvalue())
    assert done.value.code == 0 and (result["network"], result["metric"]) == ("reviews", "cross_entropy")
    names = ["random", "peak", "delta", "static mask", "oracle (first order)", "calibrated", "element readouts"]
    names += ["peak by default", "random at the share of peak"]
    assert [row["controller"] for row in result["rows"]] == names
    network, data = fxp.load(tmp_path / "model.h5"), traces.Data.read(tmp_path / "data.h5")
    fitted, controller = fxp.calibrate(network, traces.Data.read(tmp_path / "calibration.h5"), low_share=0.57)
    chosen = [accel.Static(8), "float", accel.Peak(), controller]
    static8, exact, peak, calibrated = fxp.evaluate(fitted, data, chosen, metric="cross_entropy")
    assert result["static_high"] == static8.metric and result["float"] == exact.metric
    against_float = result["static_high_vs_float"]
    assert against_float["loss"] == pytest.approx(-exact.difference, abs=1e-12)
    assert against_float["interval"] == pytest.approx([-exact.interval[1], -exact.interval[0]])
    scorer = Scorer(network, data, metric="accuracy")
    static, floating = emulate_scored(scorer, accel.Static(4)).totals, float_totals(scorer)
    turned = evaluation.against_float(scorer, static, floating, 0.003)  # higher is better: a loss all the same
    low, high = turned["interval"]
    assert turned["loss"] == pytest.approx(floating.mean() - static.mean()) and low <= turned["loss"] <= high
    assert against_float["loss"] < against_float["loss_upper"] < against_float["interval"][1]
    assert against_float["verdict"] == evaluation.verdict(
        Loss(against_float["loss"], against_float["loss_upper"]), against_float["tolerance"]
    )
    for row, expected, share in ((result["rows"][7], peak, None), (result["rows"][5], calibrated, 0.57)):
        assert row["loss"] == pytest.approx(expected.difference, abs=1e-12) and row["low_share"] == expected.low_share
        assert row["tolerance"] == pytest.approx(static8.metric / 1000) and row["share"] == share
        reach = (expected.interval[1] - expected.difference) * student_quantile(0.95, 39) / student_quantile(0.975, 39)
        assert row["loss_upper"] == pytest.approx(row["loss"] + reach)
    mask = emulate_scored(Scorer(fitted, data, metric="cross_entropy"), controller.static(calibrated.low_share)).totals
    spent = emulate_scored(Scorer(fitted, data, metric="cross_entropy"), controller).totals
    row = result["rows"][5]
    assert row["from_mask"] == pytest.approx((spent - mask).mean(), abs=1e-12)
    assert row["from_mask_interval"] == pytest.approx(intervals.paired_interval(spent, mask, np.ones(len(data))))
    assert [row["controller"] for row in result["rows"] if "from_mask" in row] == ["calibrated", "element readouts"]
    for rows, expected in ((result["rows"][:7], calibrated), (result["rows"][7:], peak)):
        # No beta need reach the share on such short sequences; the others do.
        met = [row for row in rows if row["controller"] != "peak"]
        assert all(abs(row["low_share"] - expected.low_share) < 0.02 for row in met) and len(met) in (6, 2)


def slice_of_reviews(folder, monkeypatch, count=60):
    for file in ("data.h5", "calibration.h5"):
        with traces.open(networks.path("reviews", file)) as whole:
            subset(whole, range(count)).write(folder / file)
    shutil.copy(networks.path("reviews"), folder / "model.h5")
    monkeypatch.setattr(networks, "build", lambda name, folder=None: {f: folder / f for f in registry.STANDARD})


@pytest.mark.parametrize("tolerance", [1e-9, 0.05, 1.0])
def test_a_share_is_chosen_on_calibration_data_alone(tmp_path, monkeypatch, tolerance):
    """A slice of the reviews, from the command line: what is chosen, and what the held-out data says of it."""
    slice_of_reviews(tmp_path, monkeypatch)
    monkeypatch.setitem(registry.TOLERANCES, "cross_entropy", (tolerance, False))
    out = io.StringIO()
    arguments = ["--at-tolerance", "--shares", "57%,100%", "-o", str(tmp_path), "--json", "--metric", "cross_entropy"]
    with contextlib.redirect_stdout(out), pytest.raises(SystemExit) as done:
        cli.main(["networks", "evaluate", "reviews", *arguments])
    result = json.loads(out.getvalue())
    assert done.value.code == 0 and result["tolerance"] == tolerance
    judged, found, row = result["calibration"], result["chosen"], result["held_out"]
    assert (judged["sequences"], judged["confirming"], judged["judged_by"]) == (60, 60, "cross_entropy")
    held = [probe for probe in judged["probes"] if probe["held"]]
    for probe in judged["probes"]:
        fits = max(probe["reach"], probe["loss_upper"]) <= tolerance and probe["chance"] >= tolerated.CHANCE
        assert probe["held"] == fits and probe["reach"] == pytest.approx(probe["loss_upper"] - probe["loss"])
    assert (found is None) == (not held)
    network, data = fxp.load(tmp_path / "model.h5"), traces.Data.read(tmp_path / "data.h5")
    if found is None:
        assert tolerance < 1e-6 and row["low_share"] == 0 and row["loss"] == 0
    else:
        assert found["share"] == max(probe["share"] for probe in held) == row["share"]
        fitted = tolerated.Fitted(network, traces.Data.read(tmp_path / "calibration.h5"))
        scorer = Scorer(fitted.network, data, metric="cross_entropy")
        high = emulate_scored(scorer, accel.Static(8)).totals
        scored = emulate_scored(scorer, fitted.at(found["controller"], found["share"]))
        loss = scorer.loss(scored.totals, high)
        assert (row["loss"], row["loss_upper"], row["low_share"]) == (loss.value, loss.upper, scored.run.low_share)
        assert row["verdict"] == evaluation.verdict(loss, tolerance)
        assert (found["share"], found["controller"]) == (1.0, "calibrated") or tolerance < 1
    assert [(step["share"], step["controller"]) for step in result["ladder"]] == [
        (share, form) for share in (0.57, 1.0) for form in tolerated.FORMS
    ]
    assert [step["low_share"] for step in result["ladder"][2:]] == [1.0, 1.0]
    # Other held-out data of as many sequences changes nothing about the choice.
    with traces.open(networks.path("reviews", "data.h5")) as whole:
        subset(whole, range(100, 160)).write(tmp_path / "data.h5")
    other = evaluation.evaluate_at_tolerance("reviews", (1.0,), "cross_entropy", folder=tmp_path)
    assert other["chosen"] == found and other["calibration"] == judged


def test_calibration_sequences_are_judged_by_fits_that_have_not_seen_them(tmp_path, monkeypatch):
    slice_of_reviews(tmp_path, monkeypatch, 40)
    network, data = fxp.load(tmp_path / "model.h5"), traces.Data.read(tmp_path / "calibration.h5")
    jury = tolerated.Jury(network, data, "accuracy", 0.05, confirming=160)
    probe = jury.probe("element readouts", 0.9)
    expected, margins, changes = np.zeros(40), np.zeros(40), np.zeros(40)
    low = 0.0
    for first in range(5):
        held_out = range(first, 40, 5)
        fitted = tolerated.Fitted(network, subset(data, [n for n in range(40) if n not in held_out]))
        part = subset(data, held_out)
        scorer = Scorer(fitted.network, part, metric="accuracy")
        runs = [emulate_scored(scorer, c) for c in (accel.Static(8), fitted.at("element readouts", 0.9))]
        low += runs[1].run.low_share * part.total / data.total
        # What the float network expects of the decisions.
        outputs = fxp.emulate_float(network, list(part))
        logits = np.array([scorer.read(n, h)[0] for n, h in enumerate(outputs)], np.float64)
        chances = np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True)
        for sign, controller in ((1, accel.Static(8)), (-1, fitted.at("element readouts", 0.9))):
            heads = fxp.emulate(fitted.network, list(part), controller).outputs
            read = np.array([scorer.read(n, h)[0] for n, h in enumerate(heads)], np.float64)
            expected[first::5] += sign * chances[np.arange(8), read.argmax(axis=1)]
            if sign > 0:
                margins[first::5], chosen = abs(read[:, 1] - read[:, 0]), read.argmax(axis=1)
            changes[first::5] -= sign * (read[np.arange(8), chosen] - read[np.arange(8), 1 - chosen])
    assert probe.low_share == pytest.approx(low) and probe.loss == pytest.approx(expected.mean(), abs=1e-12)
    quantile, error = student_quantile(0.95, 39), expected.std(ddof=1) / np.sqrt(40)
    assert probe.loss_upper == pytest.approx(expected.mean() + quantile * error)
    # 160 decisions are to confirm it; of so many pairs of a margin and a change the decision turns out otherwise.
    turned = (margins[:, None] + changes < 0).mean()
    assert 0 < turned < 0.2 and probe.reach == pytest.approx(quantile * np.sqrt(turned / 160))
    with pytest.raises(traces.InputError, match="has 9 sequences; 10 are needed"):
        tolerated.Jury(network, subset(data, range(9)), "accuracy", 0.05)


def test_decisions_that_turn_are_counted_over_pairs():
    rng = np.random.default_rng(1)
    before = [rng.normal(size=(n, 3)).astype(np.float32) for n in (1, 4, 2)]
    after = [x + rng.normal(scale=0.5, size=x.shape).astype(np.float32) for x in before]
    old, new = np.concatenate(before).astype(float), np.concatenate(after).astype(float)
    turned = 0
    for margin in old:
        second, first = np.argsort(margin)[-2:]
        for a, b in zip(old, new, strict=True):
            below, above = np.argsort(a)[-2:]
            turned += margin[first] - margin[second] + (b[above] - b[below]) - (a[above] - a[below]) < 0
    assert 0 < tolerated.flips(before, after) == turned / 49
    assert tolerated.flips(before, before) == 0
    assert tolerated.flips([x[:, :1] for x in before], [x[:, :1] for x in after]) == 0


def test_the_mean_share_counts_what_is_held():
    def result(name, verdict, share, held_steps):
        steps = [{"low_share": s, "verdict": "held" if s in held_steps else "lost"} for s in (0.5, 0.75, 1.0)]
        metric = networks.entry(name).metric
        row, found = {"verdict": verdict, "low_share": share}, {} if share else None
        return {"network": name, "metric": metric, "chosen": found, "held_out": row, "ladder": steps}

    some = [result("chorales", "held", 0.7, (0.5,)), result("kjv-512", "lost", 0.6, (0.5,)), result("kjv", "held", 0.4, ())]
    assert "Mean over kjv, chorales: 55 %" in table.means(some)
    said = table.means(some[:2])
    assert "Mean over kjv-512, chorales: 35 %" in said and "kjv-512 (lost)" in said and said.endswith(": 60 %.")
    said = table.means([some[0], result("g2p", "held", 0.0, (0.5, 0.75))])
    assert "Mean over chorales, g2p: 35 %" in said and "g2p (no share chosen)" in said and said.endswith(": 72.5 %.")


def test_commands_refuse_what_they_cannot_do(capsys, tmp_path):
    for arguments, message in [
        (["evaluate", "kvj"], "network 'kvj' is unknown"),
        (["evaluate", "kjv", "--low-share", "x"], "expected a number such as 57%"),
        (["evaluate", "kjv", "--low-share", "0", "-o", str(tmp_path)], "more than 0 and less than 1"),
        (["evaluate", "kjv", "--low-share", "1", "--shares", "50%"], "not both"),
        (["evaluate", "kjv", "--metric", "divergence"], "there is no tolerance to judge it by"),
        (["evaluate", "kjv", "--at-tolerance", "--shares", "0%", "-o", str(tmp_path)], "of the ladder"),
        (["build", "kvj"], "network 'kvj' is unknown"),
    ]:
        with pytest.raises(SystemExit) as done:
            cli.main(["networks", *arguments])
        err = capsys.readouterr().err
        assert done.value.code == 2 and message in err, err
    with pytest.raises(SystemExit):
        cli.main(["networks", "list", "--json"])
    listed = json.loads(capsys.readouterr().out)["networks"]
    assert [entry["name"] for entry in listed] == networks.names() and all(all(entry.values()) for entry in listed)


def test_the_table_of_the_page_is_filled_from_the_results():
    page = table.PAGE.read_text(encoding="utf-8")
    assert table.filled(page, table.stored(), table.stored("tolerance"), table.stored("finetuning")) == page
