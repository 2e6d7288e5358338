"""Metrics of label sequences and of speaker verification, against their definitions."""

import itertools
import math

import numpy as np
import pytest

from fxp import intervals, metrics, transcripts, verification


def one_hot(labels, classes):
    return np.eye(classes, dtype=np.float32)[np.asarray(labels)]


def edits_by_definition(a, b):
    """Levenshtein's distance by its recursion."""
    if not a or not b:
        return len(a) + len(b)
    return min(
        edits_by_definition(a[1:], b) + 1,
        edits_by_definition(a, b[1:]) + 1,
        edits_by_definition(a[1:], b[1:]) + (a[0] != b[0]),
    )


def test_edits_are_the_shortest_way_from_one_sequence_to_the_other():
    generator = np.random.default_rng(0)
    for _ in range(200):
        a, b = (generator.integers(1, 4, generator.integers(0, 6)).tolist() for _ in range(2))
        assert transcripts.edits(a, b) == edits_by_definition(a, b)
    assert transcripts.edits("kitten", "sitting") == 3


@pytest.mark.parametrize(
    ("path", "spelled"),
    [([0, 0, 0], []), ([1, 1, 0, 1], [1, 1]), ([1, 2, 2, 1], [1, 2, 1]), ([0, 3, 0, 0, 3, 3], [3, 3]), ([2], [2])],
)
def test_greedy_reading_merges_repetitions_and_drops_blanks(path, spelled):
    assert transcripts.spelled(one_hot(path, 4)) == spelled


def test_phoneme_error_is_of_the_nearest_alternative_and_weighs_the_first():
    error, word = metrics.METRICS["phoneme_error"], metrics.METRICS["word_error"]
    labels = np.array([1, 2, 3, 0, 1, 3], np.int32)
    assert transcripts.alternatives(labels) == [[1, 2, 3], [1, 3]]
    for path, edits in (([1, 0, 3], 0), ([1, 2, 3], 0), ([1, 2, 2], 1), ([0, 0, 0], 2)):
        assert error.score(one_hot(path, 4), labels) == (edits, 3.0)
        assert word.score(one_hot(path, 4), labels) == (float(edits > 0), 1.0)


def equal_error_by_definition(vectors, groups, weights):
    """Rates at every threshold, counting each pair as often as it was drawn."""
    pairs = list(itertools.combinations(range(len(groups)), 2))
    cosines = vectors @ vectors.T
    rates = [(1.0, 0.0)]
    for threshold in sorted({cosines[i, j] for i, j in pairs}, reverse=True):
        wrong, missed, different, same = 0, 0, 0, 0
        for a, b in pairs:
            accepted = cosines[a, b] >= threshold
            if groups[a] == groups[b]:
                # A row is one copy of a group: copies are not compared with each other.
                drawn = sum(row[a] * row[b] for row in weights)
                same += drawn
                missed += drawn * (not accepted)
            else:
                drawn = sum(row[a] for row in weights) * sum(row[b] for row in weights)
                different += drawn
                wrong += drawn * accepted
        if not same or not different:
            return math.nan
        rates.append((missed / same, wrong / different))
    for (m, w), (next_m, next_w) in itertools.pairwise(rates):
        if next_m <= next_w:
            return w + (next_w - w) * (m - w) / (m - w - next_m + next_w)
    raise AssertionError("the rates do not meet")


def test_equal_error_is_where_both_rates_meet():
    generator = np.random.default_rng(1)
    metric = verification.EqualError()
    groups = np.repeat([4, 7, 9], [5, 4, 3])
    centres = np.abs(2 * generator.normal(size=(10, 6)))
    outputs = [(centres[g] + 0.9 * generator.normal(size=(2, 6))).astype(np.float32) for g in groups]
    vectors = np.stack([metric.represent(h, None) for h in outputs])
    lengths = np.linalg.norm(vectors, axis=1)
    assert set(lengths.round(12)) <= {0.0, 1.0}
    assert (vectors >= 0).all()
    rate = metric.statistic(vectors, groups)
    seen = set()
    for weights in [intervals.undrawn(groups), *itertools.islice(intervals.draws(groups), 20)]:
        expected = equal_error_by_definition(vectors, groups, weights)
        assert rate(weights) == pytest.approx(expected, abs=1e-12, nan_ok=True)
        seen.add(round(expected, 6))
    assert len(seen) > 5
    assert math.isnan(rate(np.tile(intervals.undrawn(groups)[0], (3, 1))))
    assert 0 < rate(intervals.undrawn(groups)) < 0.5


def test_equal_error_of_separate_and_of_indistinct_speakers():
    groups = np.repeat([0, 1, 2], 4)
    apart, alike = np.eye(3)[groups], np.ones((12, 3))
    metric = verification.EqualError()
    assert metric.statistic(apart, groups)(intervals.undrawn(groups)) == 0.0
    assert metric.statistic(alike, groups)(intervals.undrawn(groups)) == 0.5
    values = intervals.bootstrap(metric.statistic(apart, groups), groups)
    same = intervals.paired_differences(values, values)
    assert same is not None
    assert (same == 0).all()
    assert (verification.embedding(-np.ones((1, 3), np.float32)) == 0).all()


def test_the_bootstrap_has_two_levels(monkeypatch):
    """Two groups of two sequences, worth 0 and 1, 4 and 6: the sum of what is drawn has nine values with known shares."""
    monkeypatch.setattr(intervals, "DRAWS", 20_000)
    groups, worth = np.array([3, 3, 8, 8]), np.array([0, 1, 4, 6])
    values = intervals.bootstrap(lambda weights: float(weights.sum(axis=0) @ worth), groups)
    # A drawn group gives 0, 1 (twice as often) or 2, or else 8, 10 (twice as often) or 12; two are drawn.
    one = dict(zip([0, 1, 2, 8, 10, 12], [1 / 8, 1 / 4, 1 / 8, 1 / 8, 1 / 4, 1 / 8], strict=True))
    expected: dict[int, float] = {}
    for (a, p), (b, q) in itertools.product(one.items(), repeat=2):
        expected[a + b] = expected.get(a + b, 0.0) + p * q
    found, counts = np.unique(values, return_counts=True)
    assert found.tolist() == sorted(expected)
    shares = np.array([expected[int(value)] for value in found])
    assert (np.abs(counts / 20_000 - shares) < 4.5 * np.sqrt(shares * (1 - shares) / 20_000)).all()
    for weights in itertools.islice(intervals.draws(groups), 50):
        assert (weights.sum(axis=1) == 2).all()
        assert (((weights[:, :2] > 0).any(axis=1)) != (weights[:, 2:] > 0).any(axis=1)).all()
    assert np.array_equal(values, intervals.bootstrap(lambda weights: float(weights.sum(axis=0) @ worth), groups))
    assert intervals.bootstrap(lambda weights: 0.0, np.zeros(4)) is None
