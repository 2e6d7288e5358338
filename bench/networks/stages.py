"""The stages that every training script has: train, evaluate, export."""

from __future__ import annotations

import argparse
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any


def save(network: Any, path: Path) -> None:
    """Write the network's weights, aside first and then into place."""
    import torch

    aside = path.with_name(path.name + ".partial")
    torch.save(network.state_dict(), aside)
    os.replace(aside, path)


def load(network: Any, path: Path) -> Any:
    """Put the weights of a checkpoint into a network; nothing in the file is executed."""
    import torch

    network.load_state_dict(torch.load(path, map_location="cpu", weights_only=True))
    return network.eval()


def main(
    name: str, about: str, build: Callable[[], Any], train: Callable[[], Any], report: Callable[[Any], None],
    export: Callable[[Any], None],
) -> None:  # fmt: skip
    """Run one stage from the command line: `python -m bench.networks.NAME train|evaluate|export CHECKPOINT`."""
    parser = argparse.ArgumentParser(prog=f"python -m bench.networks.{name}", description=about.splitlines()[0])
    parser.add_argument("stage", choices=("train", "evaluate", "export"))
    parser.add_argument("checkpoint", type=Path)
    chosen = parser.parse_args()
    if chosen.stage == "train":
        save(train(), chosen.checkpoint)
    network = load(build(), chosen.checkpoint)
    if chosen.stage == "export":
        export(network)
    else:
        report(network)
