"""Rivals at equal low share, and the oracle that knows the future."""

import numpy as np
import pytest

import accel
import fxp
import traces
from fxp import cli, evaluation, matching, networks, oracle
from fxp.figures import loss_against_share
from fxp.observation import Observation, subset
from fxp.oracle import Impacts, Oracle
from fxp.scoring import Scorer
from fxp.sensitivity import impacts
from traces import InputError


def make_data(network, count, steps=30, seed=0):
    """Ragged features with labels for the network's head."""
    rng = np.random.default_rng(seed)
    lengths = rng.integers(steps // 2, steps + 1, count)
    head = network.model.head
    x = [rng.normal(size=(n, network.features)).astype(np.float32) for n in lengths]
    if head is None:
        return traces.Data.of(x, ids=np.arange(count) * 7 + 3)
    labels = [rng.integers(len(head.bias), size=n if head.scope == "step" else 1) for n in lengths]
    return traces.Data.of(x, [label.astype(np.int32) for label in labels], ids=np.arange(count) * 7 + 3)


@pytest.fixture(name="calibrated", scope="module")
def _calibrated(make_network):
    network = make_network(hidden=(40,), classes=4, seed=1)
    data = make_data(network, 40)
    return (*fxp.calibrate(network, data, low_share=0.6), make_data(network, 20, seed=1))


def names(rows):
    return [row.controller for row in rows]


def test_every_controller_at_the_share_of_the_calibrated_one(calibrated):
    network, controller, data = calibrated
    scorer = Scorer(network, data)
    finished = evaluation.Finished(scorer)
    chosen = matching.rivals(scorer, controller, finished)
    table = evaluation.compare(scorer, chosen, finished)
    first = ["float", "static", "static", "random", "peak"]
    assert names(table) == [*first, "random", "peak", "delta", "calibrated", "calibrated", "oracle"]
    assert table[3].low_share == pytest.approx(table[4].low_share, abs=0.02)
    own = table[9]
    assert own.parameters["readout"] is not None and table[8].parameters["readout"] is None
    assert own.low_share == fxp.emulate(network, data, controller).low_share
    for row in (table[5], table[7], table[8]):
        assert row.low_share == pytest.approx(own.low_share, abs=0.03)
    assert table[10].low_share == pytest.approx(own.low_share, abs=0.002)
    assert table[10].parameters == {"low_share": own.low_share, "causal": False}
    # Each row is what an evaluation of that controller alone gives.
    assert list(fxp.evaluate(network, data, chosen)) == list(table)


def test_several_shares(calibrated):
    network, controller, data = calibrated
    scorer = Scorer(network, data)
    finished = evaluation.Finished(scorer)
    table = evaluation.compare(scorer, matching.rivals(scorer, controller, finished, [0.3, 0.8], oracle=False), finished)
    block = ["random", "peak", "delta", "calibrated", "calibrated"]
    assert names(table)[5:] == [*block, *block]
    for start, share in ((5, 0.3), (10, 0.8)):
        for n in (0, 2, 3, 4):
            assert table[start + n].low_share == pytest.approx(share, abs=0.06)
    with pytest.raises(InputError, match="between 0 and 1"):
        matching.rivals(scorer, controller, finished, [0.5, 57.0])


def test_points_of_one_kind_are_joined_in_the_picture(calibrated, tmp_path):
    network, controller, data = calibrated
    fxp.save(network, tmp_path / "m.h5")
    data.write(tmp_path / "d.h5")
    picture = tmp_path / "loss.svg"
    options = ["--shares", "30%,80%", "--no-oracle", "--json", "--plot", str(picture)]
    assert cli._run(["compare", str(tmp_path / "m.h5"), str(tmp_path / "d.h5"), *options]) == 0
    assert picture.read_text().count("static mask") == 1
    scorer = Scorer(network, data)
    finished = evaluation.Finished(scorer)
    rows = evaluation.compare(scorer, matching.rivals(scorer, controller, finished, [0.3, 0.8], oracle=False), finished).rows
    (axes,) = loss_against_share(rows).axes
    drawn = {line.get_label(): list(line.get_xdata()) for line in axes.lines if not line.get_label().startswith("_")}
    assert drawn["static mask"] == [row.low_share for row in rows if row.label == "static mask"]
    assert len(drawn["peak"]) == 3 and len(drawn["random"]) == 3 and "float" not in drawn


def test_without_calibration_the_share_is_that_of_peak(make_network):
    network = make_network(hidden=(12,), classes=3, seed=2)
    data = make_data(network, 6)
    scorer = Scorer(network, data)
    finished = evaluation.Finished(scorer)
    table = evaluation.compare(scorer, matching.rivals(scorer, None, finished), finished)
    assert names(table) == ["float", "static", "static", "random", "peak", "delta", "oracle"]
    assert table[6].low_share == pytest.approx(table[4].low_share, abs=0.01)


def test_nothing_is_emulated_twice(calibrated, monkeypatch):
    network, controller, data = calibrated
    emulated = []
    plain = evaluation.emulate_scored

    def counted(scorer, controller, **options):
        emulated.append(controller)
        return plain(scorer, controller, **options)

    monkeypatch.setattr(evaluation, "emulate_scored", counted)
    scorer = Scorer(network, data)
    finished = evaluation.Finished(scorer)
    chosen = matching.rivals(scorer, controller, finished)
    evaluation.compare(scorer, chosen, finished)
    assert len(emulated) == len(chosen) - 1  # all but float, static high being the baseline
    assert all(first != second for n, first in enumerate(emulated) for second in emulated[:n])


@pytest.mark.parametrize("options", [{"classes": 3}, {"hidden": (5, 4), "directions": 2}, {"classes": 3, "scope": "last"}])
def test_the_oracle_takes_the_least_harmful_decisions(make_network, monkeypatch, options):
    network = make_network(seed=3, **options)
    data = make_data(network, 7, 12)
    monkeypatch.setattr(oracle, "LIMIT", 30)  # in several pieces
    found = Impacts(network, data)
    plan = Oracle(found, 0.5).plan
    # The same impacts sequence by sequence, in one list; equal levels go together.
    single, low = [], []
    for n in range(len(data)):
        alone = traces.Data.of([data.sequence(n)], None if data.scope is None else [data.sequence_labels(n)])
        for impact in impacts(network.layers, Observation(network, alone)):
            values = impact.values[::-1] if impact.direction else impact.values
            single.append(np.abs(values).reshape(-1))
            low.append(plan.layers[impact.layer].low(n, impact.direction).reshape(-1))
    single, low = np.concatenate(single), np.concatenate(low)
    if data.scope is not None:  # without labels the random projection depends on the batch
        assert single[low].max() <= single[~low].min() * 2 ** (1 / oracle.UNIT)
    assert low.mean() == pytest.approx(0.5, abs=0.05)
    run = fxp.emulate(network, data, Oracle(found, 0.5), record=("plan",))
    assert run.low_share == low.mean()
    for n in range(len(data)):
        for number, layer in enumerate(network.layers):
            for d in range(layer.directions):
                assert (run.layers[number].low(n, d) == plan.layers[number].low(n, d)).all()


def test_the_oracle_loses_far_less_than_chance():
    network = fxp.load(networks.path("kjv"))
    with traces.open(networks.path("kjv", "data.h5"), kind="data") as data:
        data = subset(data, range(64))
    random, known = fxp.evaluate(network, data, [accel.Random(0.5), Oracle(Impacts(network, data), 0.5)])
    assert 0 < known.difference < random.difference / 4
    assert known.interval[1] < random.interval[0]


def test_ends_of_the_oracle(make_network):
    network = make_network(classes=3, seed=3)
    data = make_data(network, 5, 12)
    found = Impacts(network, data)
    assert fxp.emulate(network, data, Oracle(found, 0.0)).low_share == 0
    assert fxp.emulate(network, data, Oracle(found, 1.0)).low_share == 1
    with pytest.raises(InputError, match="low_share"):
        Oracle(found, 1.5)
    assert Oracle(found, 0.5).name == "oracle" and isinstance(Oracle(found, 0.5), accel.Schedule)
