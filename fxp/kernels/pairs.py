"""Sums over pairs of sequences, for the metrics that compare all of them."""

from __future__ import annotations

from fxp.kernels.build import kernel


@kernel
def cumulate(count, first, second, sums):
    """Sums of the products of both members' counts over the pairs so far: int64 [pairs + 1], from 0.

    Parameters
    ----------
    count : int64 [sequences]
    first, second : int64 [pairs]
    sums : int64 [pairs + 1], written
    """
    total = 0
    sums[0] = total
    for n in range(len(first)):
        total += count[first[n]] * count[second[n]]
        sums[n + 1] = total
