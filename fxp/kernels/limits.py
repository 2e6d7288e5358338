"""What a core can do at most: multiplications from registers only, and reading."""

from __future__ import annotations

import numpy as np

from fxp.kernels import rows, tiles, vector, vector512
from fxp.kernels.build import inlined, kernel
from fxp.kernels.vector import add32, both, either, load, maddwd


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


@inlined
def byte_product(total, signs, sizes):
    """32 products as in the byte rows; the sums stand for the row, so that nothing can be formed outside the loop."""
    return rows.add_bytes(total, total, signs, sizes)


@kernel
def multiply_bytes(rounds, out):
    """10 x 32 products a round by the instructions of the byte rows (`fxp.kernels.rows`) in independent chains."""
    signs, sizes = vector.spread(np.int32(-2)), vector.spread(np.int32(3))
    a, b, c, d, e = vector.zero(), vector.zero(), vector.zero(), vector.zero(), vector.zero()
    f, g, h, i, j = vector.zero(), vector.zero(), vector.zero(), vector.zero(), vector.zero()
    for _ in range(rounds):
        a, b = byte_product(a, signs, sizes), byte_product(b, signs, sizes)
        c, d = byte_product(c, signs, sizes), byte_product(d, signs, sizes)
        e, f = byte_product(e, signs, sizes), byte_product(f, signs, sizes)
        g, h = byte_product(g, signs, sizes), byte_product(h, signs, sizes)
        i, j = byte_product(i, signs, sizes), byte_product(j, signs, sizes)
    first = either(either(either(a, b), either(c, d)), either(either(e, f), either(g, h)))
    vector.store(out, either(first, either(i, j)))


@inlined
def nibble_product(total, second, crossed):
    """64 products as in the nibble rows."""
    return rows.add_nibbles(total, total, both(total, vector.nibbles()), second, crossed)


@kernel
def multiply_nibbles(rounds, out):
    """10 x 64 products a round by the instructions of the nibble rows, without the rare widening."""
    second, crossed = vector.spread(np.int32(3)), vector.spread(np.int32(5))
    a, b, c, d, e = vector.zero(), vector.zero(), vector.zero(), vector.zero(), vector.zero()
    f, g, h, i, j = vector.zero(), vector.zero(), vector.zero(), vector.zero(), vector.zero()
    for _ in range(rounds):
        a, b = nibble_product(a, second, crossed), nibble_product(b, second, crossed)
        c, d = nibble_product(c, second, crossed), nibble_product(d, second, crossed)
        e, f = nibble_product(e, second, crossed), nibble_product(f, second, crossed)
        g, h = nibble_product(g, second, crossed), nibble_product(h, second, crossed)
        i, j = nibble_product(i, second, crossed), nibble_product(j, second, crossed)
    first = either(either(either(a, b), either(c, d)), either(either(e, f), either(g, h)))
    vector.store(out, either(first, either(i, j)))


@kernel
def multiply_dots(rounds, out):
    """10 x 64 products a round by `vpdpbusd`."""
    x, dot = vector512.nibbles(), vector512.dot
    a, b, c, d, e = x, x, x, x, x
    f, g, h, i, j = x, x, x, x, x
    for _ in range(rounds):
        a, b, c, d, e = dot(a, x, a), dot(b, x, b), dot(c, x, c), dot(d, x, d), dot(e, x, e)
        f, g, h, i, j = dot(f, x, f), dot(g, x, g), dot(h, x, h), dot(i, x, i), dot(j, x, j)
    total = vector512.add32
    vector512.store(out, total(total(total(a, b), total(c, d)), total(total(total(e, f), total(g, h)), total(i, j))))


@kernel
def multiply_tiles(rounds, configuration):
    """4 x 16 x 16 x 64 products a round by `tdpbssd`, from registers."""
    tiles.configure(configuration)
    tiles.load_4(configuration, 0)
    tiles.load_5(configuration, 0)
    tiles.load_6(configuration, 0)
    tiles.load_7(configuration, 0)
    tiles.zero_0()
    tiles.zero_1()
    tiles.zero_2()
    tiles.zero_3()
    for _ in range(rounds):
        tiles.add_0_45()
        tiles.add_1_46()
        tiles.add_2_47()
        tiles.add_3_45()
    tiles.release()
