"""Rivals at equal low share: at unequal shares a comparison of controllers shows nothing."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import accel.controllers as controllers
from accel.calibrated import Calibrated
from fxp.emulator import emulate
from fxp.evaluation import MATCHED, Finished, Scorer, default_controllers
from fxp.network import Network
from fxp.observation import as_data, chosen
from fxp.oracle import Impacts, Oracle
from traces import Data, InputError

TRIAL = 8192  # steps that thresholds are matched on
HALVINGS = 14
DELTA = (-20.0, 10.0)  # log2 of Delta's relative threshold
BETA = (-10.0, 3.0)  # log2 of Peak's beta


def rivals(
    scorer: Scorer,
    carried: Calibrated | None,
    finished: Finished,
    shares: Sequence[float] | None = None,
    oracle: bool = True,
) -> list[Any]:
    """Every controller at equal low shares, in the order of a table.

    Float, static high, static low, peak with the paper's parameters and random at its share; then for every share
    random, peak and delta, and for a calibrated network its static mask and controller, and the oracle.
    Random, mask and oracle meet a share nearly to the element; peak's beta, delta's threshold and that of the
    calibrated controller are halved towards it on at most 8,192 steps of the data, and their rows give the share that
    they reached.

    Parameters
    ----------
    scorer : Scorer
    carried : accel.Calibrated or None
        The network's own controller.
    finished : Finished
        Runs that are needed to know a share are kept there.
    shares : low shares, 0 to 1, or None
        None: the share that `carried` reaches on the very data (without one, that of peak).
    oracle : whether to add the oracle, which knows the future
    """
    if shares is not None and not (len(shares) and all(0 < share < 1 for share in shares)):
        raise InputError("shares have to lie between 0 and 1, such as 57%")
    network, rows = scorer.network, default_set(scorer, finished)
    own = None
    if shares is None:
        own = carried if carried is not None else controllers.Peak()
        shares = [finished.scored(own).run.low_share]
    trial = chosen(as_data(network, scorer.data), TRIAL)
    impacts = Impacts(network, scorer.data) if oracle else None
    for share in shares:
        at = Trial(network, trial, share)
        # The paper's peak and random at its share are there already.
        if not isinstance(own, controllers.Peak):
            rows += [controllers.Random(share), at.peak()]
        rows.append(at.delta())
        if carried is not None:
            rows += [carried.static(share), carried if own is not None else at.calibrated(carried)]
        if impacts is not None:
            rows.append(Oracle(impacts, share))
    return rows


def default_set(scorer: Scorer, finished: Finished) -> list[Any]:
    """The default set with its random row already at the low share of peak."""
    share = finished.scored(controllers.Peak()).run.low_share
    chosen = default_controllers(scorer.network)
    return [controllers.Random(share) if isinstance(c, str) and c == MATCHED else c for c in chosen]


class Trial:
    """Controllers whose parameter is halved towards a low share on some data (`chosen` gives a part of it)."""

    def __init__(self, network: Network, data: Data, share: float, threads: int = 1):
        self._network, self._data, self._share, self._threads = network, data, share, threads

    def peak(self) -> controllers.Peak:
        """Peak with the beta that comes nearest from below."""
        return controllers.Peak(beta=2.0 ** self._halved(*BETA, lambda v: controllers.Peak(beta=2.0**v)))

    def delta(self) -> controllers.Delta:
        """Delta (relative) with the threshold that comes nearest from below."""
        return controllers.Delta(2.0 ** self._halved(*DELTA, lambda v: controllers.Delta(2.0**v)))

    def calibrated(self, carried: Calibrated) -> Calibrated:
        """A calibrated controller with the threshold that comes nearest from below."""
        scores = [value for layer in carried.scores for side in layer for value in side]
        spread = max(scores) - min(scores) + 1
        # A readout moves thresholds by octaves; eight spans of the scores are beyond its reach.
        ends = (max(min(scores) - 8.0 * spread, 1.0 - 2**30), min(max(scores) + 8.0 * spread, 2**30 - 1.0))
        return carried.with_threshold(
            round(self._halved(*ends, lambda v: carried.with_threshold(round(v)), 2 * HALVINGS))
        )

    def _halved(self, least: float, most: float, made: Callable[[float], Any], halvings: int = HALVINGS) -> float:
        for _ in range(halvings):
            middle = (least + most) / 2
            reached = emulate(self._network, self._data, made(middle), threads=self._threads).low_share
            least, most = (middle, most) if reached <= self._share else (least, middle)
        return least
