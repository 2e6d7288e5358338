"""What a core can do at most: multiplications from registers only, and reading."""

from __future__ import annotations

import numpy as np

from fxp.kernels import vector
from fxp.kernels.build import kernel
from fxp.kernels.vector import add32, either, load, maddwd


@kernel
def multiply(rounds, out):
    """12 x 16 products a round by `vpmaddwd` and `vpaddd`, in independent chains long enough to hide their latency."""
    x = vector.spread(np.int32(3))
    a, b, c, d = vector.zero(), vector.zero(), vector.zero(), vector.zero()
    e, f, g, h = vector.zero(), vector.zero(), vector.zero(), vector.zero()
    i, j, k, m = vector.zero(), vector.zero(), vector.zero(), vector.zero()
    for _ in range(rounds):
        a, b, c, d = add32(a, maddwd(x, a)), add32(b, maddwd(x, b)), add32(c, maddwd(x, c)), add32(d, maddwd(x, d))
        e, f, g, h = add32(e, maddwd(x, e)), add32(f, maddwd(x, f)), add32(g, maddwd(x, g)), add32(h, maddwd(x, h))
        i, j, k, m = add32(i, maddwd(x, i)), add32(j, maddwd(x, j)), add32(k, maddwd(x, k)), add32(m, maddwd(x, m))
    first = either(either(either(a, b), either(c, d)), either(either(e, f), either(g, h)))
    vector.store(out, either(first, either(either(i, j), either(k, m))))


@kernel
def read(place, size, rounds, out):
    """Reads `size` bytes (a multiple of 128) in order, `rounds` times."""
    a, b, c, d = vector.zero(), vector.zero(), vector.zero(), vector.zero()
    for _ in range(rounds):
        for n in range(0, size, 128):
            vector.prefetch(place + n + 2048)
            vector.prefetch(place + n + 2112)
            a, b = either(a, load(place + n)), either(b, load(place + n + 32))
            c, d = either(c, load(place + n + 64)), either(d, load(place + n + 96))
    vector.store(out, either(either(a, b), either(c, d)))
