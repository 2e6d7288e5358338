"""What Python sees of the compiled controllers."""

KINDS: dict[str, int]
MOST_COLUMNS: int

def key(seed: int, sequence: int, layer: int, direction: int) -> int: ...
