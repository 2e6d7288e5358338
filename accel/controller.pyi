"""What Python sees of the compiled controllers."""

KINDS: dict[str, int]

def key(seed: int, sequence: int, layer: int, direction: int) -> int: ...
