"""What eight bits do to the speaker encoder, and whether its features are those that it was trained on.

    python -m bench.networks.speaker eight-bits > bench/results/speaker-eight-bits.json
    python -m bench.networks.speaker parts > bench/results/speaker-parts.json
    python -m bench.networks.speaker features

The second quantises one part of the float network at a time, on the calibration prompts. The last compares the features
of one recording with those of Resemblyzer's own code: librosa's mel spectrogram, for
which librosa has to be installed.
"""

from __future__ import annotations

import argparse
import json
from dataclasses import replace
from typing import Any

import numpy as np

import accel.controllers as controllers
import traces
from fxp import floating, networks, quantise
from fxp.evaluation import emulate_scored, float_totals
from fxp.network import Network
from fxp.networks import debian, recordings, speaker
from fxp.scoring import Scorer
from fxp.verification import embedding


def eight_bits(network: Network, data: traces.Data, threads: int = 1) -> dict[str, Any]:
    """Equal error of the float network and at static high precision, and how near the embeddings are.

    Returns
    -------
    dict
        `difference` is static high minus float, `interval` its 95 % interval over draws of speakers and of recordings
        of each, `cosine` that between the embeddings of both: mean and least over sequences.
    """
    scorer = Scorer(network, data)
    high = emulate_scored(scorer, controllers.Static(network.formats.high), threads=threads).totals
    exact = float_totals(scorer)
    cosines = (high * exact).sum(axis=1)
    return {
        "network": network.model.name,
        "metric": scorer.name,
        "sequences": len(data),
        "speakers": len(np.unique(scorer.groups)),
        "float": scorer.value(exact),
        "static_high": scorer.value(high),
        "difference": scorer.value(high) - scorer.value(exact),
        "interval": scorer.interval(high, exact),
        "cosine": {"mean": float(cosines.mean()), "least": float(cosines.min())},
    }


def parts(network: Network, data: traces.Data) -> dict[str, float]:
    """Mean cosine between the embeddings of the float network and of one where a single part is quantised."""
    exact = quantise.float_layers(network.model)
    first, top, head = network.layers[0], network.formats.top, network.model.head
    step = first.x_scale * first.input_scale
    inputs = list(data)

    def embeddings(layers: list[Any], read: list[np.ndarray]) -> np.ndarray:
        outputs = floating.run(layers, [x.astype(np.float32) for x in read])[0]
        return np.stack([embedding(h[-1:] @ head.weight.T + head.bias) for h in outputs])

    wx = (first.wx_index * first.wx_scale[..., None] / first.input_scale).astype(np.float32)
    others = [
        replace(
            layer,
            wx=layer.wx if number == 0 else (n.wx_index * n.wx_scale[..., None]).astype(np.float32),
            wh=(n.wh_index * n.wh_scale[..., None]).astype(np.float32),
        )
        for number, (layer, n) in enumerate(zip(exact, network.layers, strict=True))
    ]
    whole = [np.clip(np.rint(x / step), -top, top) * step for x in inputs]
    variants = {
        "inputs clipped": (exact, [np.clip(x, -top * step, top * step) for x in inputs]),
        "inputs rounded": (exact, [np.rint(x / step) * step for x in inputs]),
        "inputs clipped and rounded": (exact, whole),
        "input weights of layer 0": ([replace(exact[0], wx=wx), *exact[1:]], inputs),
        "input weights of layer 0, inputs clipped and rounded": ([replace(exact[0], wx=wx), *exact[1:]], whole),
        "all other weights": (others, inputs),
    }
    plain = embeddings(exact, inputs)
    return {name: float((embeddings(*variant) * plain).sum(axis=1).mean()) for name, variant in variants.items()}


def features() -> dict[str, float]:
    """Largest difference of a band's power from librosa's over one prompt, and the grid that ours is rounded to."""
    import librosa

    place, content = debian.files(debian.package(speaker.PACKAGES["asterisk-core-sounds-en-wav"]), ".wav")[0]
    samples = recordings.levelled(recordings.resample(*recordings.read_wave(content, place)))
    ours = recordings.mel_power(samples)
    theirs = librosa.feature.melspectrogram(
        y=samples, sr=recordings.RATE, n_fft=recordings.WINDOW, hop_length=recordings.HOP, n_mels=recordings.BANDS
    ).T
    return {"largest": float(np.abs(ours - theirs).max()), "grid": 2.0**-recordings.GRID}


def main(arguments: list[str] | None = None) -> None:
    """Run one stage from the command line."""
    parser = argparse.ArgumentParser(prog="python -m bench.networks.speaker", description=__doc__.splitlines()[0])
    parser.add_argument("stage", choices=("eight-bits", "parts", "features"))
    chosen = parser.parse_args(arguments)
    if chosen.stage == "features":
        print(json.dumps(features(), indent=1))
        return
    files = networks.build("speaker")
    if chosen.stage == "parts":
        seen = traces.Data.read(files["calibration.h5"])
        print(json.dumps(parts(Network(traces.Model.read(files["model.h5"])), seen), indent=1))
        return
    data = traces.Data.read(files["data.h5"])
    variants = {
        "a scale for each input, rounded for the sums": (True, True),
        "a scale for each input, rounded to nearest": (True, False),
        "one scale for all inputs, rounded to nearest": (False, False),
    }
    found = {name: eight_bits(Network(speaker.model(*made)), data) for name, made in variants.items()}
    print(json.dumps(found, indent=1))


if __name__ == "__main__":
    main()
