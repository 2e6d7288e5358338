"""Compiles the kernels ahead of use, by running each on a tiny network."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

import accel
from fxp.emulator import emulate
from fxp.formats import Formats, Profile
from fxp.network import Network
from fxp.quantise import FloatLayer, build


def compile_all() -> int:
    """Compile every kernel of the emulator and of the accelerator model; returns how many variants ran."""
    generator = np.random.default_rng(0)
    x = generator.normal(size=(3, 4)).astype(np.float32)
    layer = FloatLayer(*(generator.normal(size=(1, *shape)).astype(np.float32) for shape in ((8, 4), (8, 2), (8,))))
    variants = 0
    for profile in Profile:
        for low in (4, 5):
            network = Network(build([layer], [x], replace(Formats(), profile=profile, low=low)))
            for engine in ("portable", "fast"):
                run = emulate(network, [x], accel.Static(8), engine=engine, record=("plan", "cell", "accumulators"))
                variants += 1
            if low == 4:
                accel.estimate(run)
    return variants
