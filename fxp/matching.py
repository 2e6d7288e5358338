"""Rivals of a calibrated controller at the low share that it reaches: at unequal shares a comparison shows nothing."""

from __future__ import annotations

from typing import Any

import accel.controllers as controllers
from accel.calibrated import Calibrated
from fxp.emulator import emulate
from fxp.evaluation import MATCHED, Scorer, default_controllers, emulate_scored
from fxp.network import Network
from fxp.observation import as_data, chosen
from traces import Data

TRIAL = 8192  # steps that Delta's threshold is matched on
HALVINGS = 14
LEAST, MOST = -20.0, 10.0  # log2 of Delta's relative threshold


def rivals(scorer: Scorer, controller: Calibrated, **options: Any) -> list[Any]:
    """The default set of `fxp.evaluate`, then random, delta and static mask at the controller's low share, and itself.

    The share is the one that the controller reaches on the very data. Random and the mask meet it (the mask to one
    element); delta, a closed loop, is halved towards it on at most 8,192 steps of the data, and its row gives the share
    that it reached.

    Parameters
    ----------
    scorer : Scorer
    controller : accel.Calibrated
    options : engine, threads and journal, as for `emulate_scored`
    """
    quick = {name: value for name, value in options.items() if name != "journal"}
    share = emulate_scored(scorer, controller, score=False, keep=False, **options).run.low_share
    trial = chosen(as_data(scorer.network, scorer.data), TRIAL)
    return [
        *default_set(scorer, **options),
        controllers.Random(share),
        delta_at(scorer.network, trial, share, **quick),
        controller.static(share),
        controller,
    ]


def default_set(scorer: Scorer, **options: Any) -> list[Any]:
    """The default set with its random row already at the low share of peak."""
    peak = controllers.Peak()
    share = emulate_scored(scorer, peak, score=False, keep=False, **options).run.low_share
    chosen = default_controllers(scorer.network)
    return [controllers.Random(share) if isinstance(c, str) and c == MATCHED else c for c in chosen]


def delta_at(network: Network, data: Data, share: float, **options: Any) -> controllers.Delta:
    """Delta (relative) with the threshold that comes nearest from below to a low share on data."""
    least, most = LEAST, MOST
    for _ in range(HALVINGS):
        middle = (least + most) / 2
        reached = emulate(network, data, controllers.Delta(2.0**middle), **options).low_share
        least, most = (middle, most) if reached <= share else (least, middle)
    return controllers.Delta(2.0**least)
