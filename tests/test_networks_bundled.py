"""The bundled networks: complete, small, and as good as their description says."""

import numpy as np
import pytest

import accel
import fxp
import traces
from fxp import evaluation, networks


def test_everything_is_there_and_small():
    assert networks.names() == ["kjv"]
    folder = networks.path("kjv").parent
    assert sum(file.stat().st_size for file in folder.iterdir()) < 5_000_000
    assert "unrestricted use" in (folder / "LICENCE.md").read_text()
    model = fxp.load(networks.path("kjv"))
    assert [(n.input_size, n.hidden_size) for n in model.layers] == [(32, 256)]
    for file, shape in (("data.h5", (256, 200)), ("calibration.h5", (200, 200)), ("long.h5", (6, 3000))):
        with traces.open(networks.path("kjv", file), kind="data") as data:
            assert (len(data), set(data.lengths.tolist())) == (shape[0], {shape[1]})
            assert data.metric == "bits_per_character" and data.origin and data.licence


def test_labels_are_the_next_tokens():
    with traces.open(networks.path("kjv", "data.h5"), kind="data") as data:
        for number in (0, 100, 255):
            assert (data.sequence(number)[1:] == data.sequence_labels(number)[:-1]).all()


def test_unknown_names_are_refused():
    with pytest.raises(traces.InputError, match="kjv"):
        networks.path("nothing")
    with pytest.raises(traces.InputError, match=r"calibration\.h5"):
        networks.path("kjv", "../kjv/model.h5")


def test_eight_bits_keep_the_quality():
    network = fxp.load(networks.path("kjv"))
    with traces.open(networks.path("kjv", "data.h5"), kind="data") as source:
        data = source.read()
    part = traces.Data(data.values[: 16 * 200], data.offsets[:17], data.labels[: 16 * 200], metric=data.metric)
    table = evaluation.evaluate(network, part, ["float", accel.Static(8)])
    assert table[0].metric < 2.1
    # The whole held-out set differs by 0.0002 bits; a hundredth of a bit would be a fault of the quantiser.
    assert abs(table[1].metric - table[0].metric) < 0.01
    assert np.isfinite(table[0].interval).all()
