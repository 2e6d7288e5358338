"""Damaged and hostile inputs of every kind: refused with one line, soon, in bounded memory, nothing run, nothing left."""

import fuzz
import pytest


@pytest.mark.parametrize("kind", fuzz.KINDS)
def test_hostile_inputs(kind):
    """A hundred a kind; `make fuzz` takes two thousand."""
    results = list(fuzz.fuzz(kind, 3, 0, 100))
    assert [result["number"] for result in results] == list(range(100))
    assert [result for result in results if result["outcome"] not in fuzz.FINE] == []
    assert len({result["outcome"] for result in results}) == 2
