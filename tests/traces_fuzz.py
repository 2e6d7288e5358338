"""Opens damaged copies of files and visits all they hold; run as a child process, since a crash would end it.

Arguments: a scratch path, a seed, the number of mutations a file, the files. Prints how many were refused.
"""

import sys
from pathlib import Path

import numpy as np

import traces


def visit(path):
    """Read everything that a file holds."""
    content = traces.open(path)
    if isinstance(content, traces.Model):
        content.digest()
    elif isinstance(content, traces.DataFile):
        with content:
            content.read().digest()
    elif isinstance(content, traces.Trace):
        with content:
            content.digest()
            for layer in content.layers:
                for name in layer.recorded:
                    for direction in range(layer.directions):
                        for sequence in range(len(content.ids)):
                            getattr(layer, name)(sequence, direction)


def mutate(rng, original):
    """A copy with flipped bits, a block overwritten or moved, or its end cut off."""
    content = bytearray(original)
    kind = rng.integers(4)
    if kind == 0:
        return bytes(content[: rng.integers(len(content))])
    at = int(rng.integers(len(content)))
    if kind == 1:
        for place in rng.integers(0, len(content), rng.integers(1, 9)):
            content[place] ^= 1 << rng.integers(8)
    elif kind == 2:
        content[at : at + 16] = rng.integers(0, 256, len(content[at : at + 16]), dtype=np.uint8).tobytes()
    else:
        content[at : at + 8] = [255] * len(content[at : at + 8])
    return bytes(content)


def main(scratch, seed, count, *paths):
    """Fuzz each file; any error but FormatError ends the process with a traceback."""
    rng, refused = np.random.default_rng(int(seed)), 0
    for path in paths:
        original = Path(path).read_bytes()
        for _ in range(int(count)):
            Path(scratch).write_bytes(mutate(rng, original))
            try:
                visit(scratch)
            except traces.FormatError as error:
                assert "\n" not in str(error) and str(error).startswith(scratch), str(error)
                refused += 1
    print(refused)


if __name__ == "__main__":
    main(*sys.argv[1:])
