"""Differences between files, and dumps of their parts for test benches."""

import json
import re
import shutil
import subprocess
from pathlib import Path

import h5py
import numpy as np
import pytest
import traces_samples as samples

import accel
import fxp
import traces
from fxp import bits, differences, dump
from fxp import reference as twin
from fxp.cli import main
from fxp.formats import Formats
from traces import InputError

ROOT = Path(__file__).parents[1]
ONE_WAY = [(5, 6, 6, 1, False), (6, 4, 4, 1, False)]


def call(capsys, *arguments):
    """(exit code, standard output, standard error) of a command."""
    with pytest.raises(SystemExit) as left:
        main([str(argument) for argument in arguments])
    captured = capsys.readouterr()
    return left.value.code or 0, captured.out, captured.err


def pair(folder, layers, *changes, profile="float32"):
    """Two traces; in the second, each change (layer, direction, quantity, row, index) flips what stands there."""
    paths = folder / "a.h5", folder / "b.h5"
    for path in paths:
        samples.trace(path, layers=layers, profile=profile)
    with h5py.File(paths[1], "r+") as file:
        for layer, direction, name, row, index in changes:
            data = file[f"layers/{layer}/{name}"]
            if name == "plan":
                data[direction, row, index // 8] ^= 1 << (index % 8)
            elif name.endswith("count"):
                data[direction, row] -= 1
            else:
                place = (direction, row, *np.atleast_1d(index))
                data[place] = -data[place]
    return paths


def test_equal_traces_are_the_same(tmp_path, capsys):
    paths = pair(tmp_path, ONE_WAY)
    code, out, _ = call(capsys, "diff", *paths, "--json")
    found = json.loads(out)
    assert code == 0 and found["same"] and found["first"] is None
    assert found["compared"] == ["plan", "accumulators", "cell", "hidden"]


@pytest.mark.parametrize("block", [1, 1 << 20])
@pytest.mark.parametrize(("changes", "expected"), [
    ([(0, 0, "cell", 5, 2), (1, 0, "plan", 4, 1)], ("plan", 2, 0, 0, {"layer": 1, "element": 1})),
    ([(1, 0, "cell", 5, 2), (0, 0, "hidden", 5, 3)], ("hidden", 2, 1, 1, {"layer": 0, "element": 3})),
    ([(0, 0, "hidden", 6, 0), (0, 0, "cell", 6, 4), (0, 0, "accumulators", 6, (1, 15))],
     ("accumulators", 2, 2, 2, {"layer": 0, "part": "h", "gate": "g", "element": 3, "row": 15})),
    ([(0, 0, "cell", 10, 5), (0, 0, "cell", 10, 1), (0, 0, "cell", 2, 0)], ("cell", 0, 2, 2, {"element": 0})),
    ([(0, 0, "overflow_count", 2, 0), (1, 0, "hidden", 10, 1)], ("hidden", 2, 6, 6, {"layer": 1})),
    ([(1, 0, "overflow_count", 1, 0), (0, 0, "hidden", 10, 1)], ("overflow_count", 1, None, None, {"layer": 1})),
])  # fmt: skip
def test_the_first_difference_is_the_cause(tmp_path, monkeypatch, changes, expected, block):
    monkeypatch.setattr(differences, "VALUES", block)
    quantity, sequence, step, position, rest = expected
    found = differences.find(*pair(tmp_path, ONE_WAY, *changes))
    assert not found.same and not found.headers and found.first.quantity == quantity
    place = found.first.place
    assert (place["sequence"], place["id"]) == (sequence, sequence)
    assert (place.get("step"), place.get("position")) == (step, position)
    assert rest.items() <= place.items()


@pytest.mark.parametrize("block", [1, 1 << 20])
def test_both_directions_are_compared_in_the_order_of_processing(tmp_path, monkeypatch, block):
    monkeypatch.setattr(differences, "VALUES", block)
    changes = [(1, 0, "cell", 4, 0), (0, 1, "cell", 5, 1), (0, 1, "hidden", 8, 2), (0, 1, "plan", 8, 5)]
    found = differences.find(*pair(tmp_path, samples.SIZES, *changes))
    expected = {"sequence": 2, "id": 2, "step": 2, "position": 4, "layer": 0, "direction": "backward", "element": 5}
    assert (found.first.quantity, found.first.place) == ("plan", expected)
    found = differences.find(*pair(tmp_path, samples.SIZES, *changes[:1]))
    assert found.first.place["layer"] == 1 and found.first.place["direction"] == "forward"


def test_values_are_shown_in_bits_and_as_reals(tmp_path):
    model = samples.model(directions=1, layers=2, hidden=6)
    paths = pair(tmp_path, [(5, 6, 6, 1, False), (6, 6, 6, 1, False)], (0, 0, "accumulators", 1, (0, 7)))
    for path in paths:
        with h5py.File(path, "r+") as file:
            digest = np.array(model.digest().encode(), h5py.string_dtype("utf-8", 64))
            file.attrs.create("model_digest", digest, dtype=digest.dtype)
    with traces.open(paths[0]) as trace:
        raw = int(trace.layers[0].accumulators(0)[1, 0, 7])
        low = trace.layers[0].low(0)[1, 1]
    first, second = differences.find(*paths, model).first.values
    assert (first.value, second.value, first.width) == (raw, -raw, 24)
    assert int(first.hex, 16) == int(first.binary, 2) == raw % 2**24 and len(first.binary) == 24
    unit = twin.FloatUnit(model, model.layers[0], 0)
    assert first.real == raw * float(unit.rows[bool(low)][7][0])
    with pytest.raises(InputError, match="neither trace"):
        differences.find(*paths, samples.model(seed=9))


def test_floats_are_compared_by_their_bits(tmp_path):
    paths = pair(tmp_path, ONE_WAY)
    for path, value in zip(paths, (0.0, -0.0), strict=True):
        with h5py.File(path, "r+") as file:
            file["layers/0/cell"][0, 0, 0] = value
    first, second = differences.find(*paths).first.values
    assert (first.hex, second.hex) == ("00000000", "80000000")
    with h5py.File(paths[0], "r+") as a, h5py.File(paths[1], "r+") as b:
        a["layers/0/cell"][0, 0, 0] = b["layers/0/cell"][0, 0, 0] = np.nan
    assert differences.find(*paths).same


def test_a_fixed_cell_state_has_eleven_fraction_bits(tmp_path):
    paths = pair(tmp_path, ONE_WAY, (0, 0, "cell", 0, 1), profile="fixed")
    value = differences.find(*paths).first.values[0]
    assert value.width == 16 and value.real == value.value / 2048


def test_headers_and_shapes_are_named(tmp_path, capsys):
    paths = pair(tmp_path, ONE_WAY)
    samples.trace(paths[1], layers=[(5, 6, 6, 1, False), (6, 3, 3, 1, False)], record=("cell",))
    code, out, _ = call(capsys, "diff", *paths, "--json")
    found = json.loads(out)
    assert code == 3 and found["first"] is None and found["compared"] == []
    names = [entry["name"] for entry in found["headers"]]
    assert names == ["layers/1/hidden_size", "layers/1/output_size"]
    samples.trace(paths[1], layers=ONE_WAY, lengths=(3, 2, 6))
    assert ("lengths[1]", 1, 2) in differences.find(*paths).headers
    samples.trace(paths[1], layers=ONE_WAY, record=("cell",))
    found = differences.find(*paths)
    assert [name for name, *_ in found.notes] == ["accumulators", "hidden"]
    assert found.compared == ["plan", "cell"]


def test_provenance_is_named_but_does_not_count(tmp_path, capsys):
    paths = pair(tmp_path, ONE_WAY)
    with h5py.File(paths[1], "r+") as file:
        file.attrs.modify("seed", 8)
    code, out, _ = call(capsys, "diff", *paths)
    assert code == 0 and "not counted: seed: 7 | 8" in out


def test_models_and_data_are_compared_array_by_array(tmp_path, capsys):
    model, data = samples.model(), samples.data()
    model.write(tmp_path / "a.h5")
    data.write(tmp_path / "c.h5")
    for name, source, array, place in (("b", "a", "layers/1/wh_index", (1, 3, 2)), ("d", "c", "features", (4, 1))):
        with h5py.File(shutil.copy(tmp_path / f"{source}.h5", tmp_path / f"{name}.h5"), "r+") as file:
            file[array][place] = file[array][place] // 2 + 1
        code, out, _ = call(capsys, "diff", tmp_path / f"{source}.h5", tmp_path / f"{name}.h5", "--json")
        found = json.loads(out)
        assert code == 3 and found["first"]["quantity"] == array and found["first"]["index"] == list(place)
    code, out, _ = call(capsys, "diff", tmp_path / "a.h5", tmp_path / "b.h5")
    assert code == 3 and "layers/1/wh_index at index [1, 3, 2]" in out and "0x" in out
    assert call(capsys, "diff", tmp_path / "a.h5", tmp_path / "a.h5")[0] == 0
    code, _, error = call(capsys, "diff", tmp_path / "a.h5", tmp_path / "c.h5")
    assert code == 2 and "is a data file" in error
    assert call(capsys, "diff", tmp_path / "a.h5", tmp_path / "none.h5")[0] == 2


# Dumps


def memory(path):
    """What $readmemh reads: words, white space between them, comments left out."""
    return [int(word, 16) for word in re.sub(r"//.*", "", path.read_text()).split()]


def signed(words, width):
    return np.array([word - (word >> (width - 1) << width) for word in words])


@pytest.mark.parametrize("profile", ["float32", "fixed"])
def test_a_trace_is_dumped_word_by_word(tmp_path, capsys, profile, monkeypatch):
    monkeypatch.setattr(dump, "VALUES", 20)
    written = samples.trace(tmp_path / "t.h5", profile=profile)[0, 1]
    for name, width in (("plan", 1), ("accumulators", 24), ("cell", 16 if profile == "fixed" else 32), ("hidden", 8)):
        expected = written["low" if name == "plan" else name][6:10].reshape(4, -1)
        for kind in dump.FORMATS:
            code, out, _ = call(
                capsys, "dump", tmp_path / "t.h5", "-o", tmp_path / kind, "-q", name, "--sequence", 2, "--steps", "2:6",
                "--direction", 1, "--format", kind, "--json",
            )  # fmt: skip
            about = json.loads(out)
            assert code == 0 and about["width"] == width and (about["rows"], about["columns"]) == expected.shape
        words = np.array(memory(tmp_path / "hex"))
        pattern = expected.view(np.uint32) if expected.dtype == np.float32 else expected.astype(int) % 2**width
        assert (words == pattern.reshape(-1)).all() and f"{width} bits" in (tmp_path / "hex").read_text()
        stored = np.load(tmp_path / "npy")
        assert (stored == expected).all() and stored.dtype == about["dtype"]
        table = np.loadtxt(tmp_path / "csv", delimiter=",", skiprows=2, dtype=np.float64)
        assert table[:, 0].tolist() == [2, 3, 4, 5]
        assert (table[:, 1:].astype(expected.dtype) == expected).all()


@pytest.mark.parametrize("numbers", [{}, {"profile": "fixed"}, {"high": 6, "low": 6}, {"high": 7, "low": 3, "profile": "fixed"}])
@pytest.mark.parametrize("peepholes", [False, True])
def test_a_model_is_dumped_whole(make_network, tmp_path, numbers, peepholes):
    network = make_network((5, 4), directions=2, projection=3, peepholes=peepholes, **numbers)
    formats = Formats(**numbers)
    for layer, direction in ((0, 0), (1, 1)):
        stored = network.layers[layer]
        parts = dump.model_parts(network, layer, direction)
        for name, make in parts.items():
            dump.write(make(), tmp_path / f"{name}.hex", "hex")
        read = {name: memory(tmp_path / f"{name}.hex") for name in parts}
        for name in ("wx", "wh"):
            index = getattr(stored, f"{name}_index")[direction].astype(int).reshape(-1)
            offset = getattr(stored, f"{name}_offset")[direction].reshape(-1)
            assert (signed(read[name], formats.high) == index).all() and (read[f"{name}-offset"] == offset).all()
            upper = signed(read[f"{name}-upper"], formats.low)
            if formats.shift:
                # Both stored parts give the high index, the upper one and the offset bit the low one.
                assert (upper * 2**formats.shift + read[f"{name}-lower"] == index).all()
            low = [twin.low_weight(int(i), int(o), formats.high, formats.low) for i, o in zip(index, offset, strict=True)]
            assert (upper + offset == low).all() and (signed(read[f"{name}-low"], formats.low) == low).all()
            scales = np.array(read[f"{name}-scale"], np.uint32).view(np.float32)
            assert (scales == getattr(stored, f"{name}_scale")[direction]).all()
        assert (signed(read["wp"], formats.high) == stored.wp_index[direction].reshape(-1)).all()
        half = 2 ** (formats.high - 1)
        for index in range(1 - half, half):
            found = signed([read["activation-low"][index % (2 * half)]], formats.low)[0]
            assert found == twin.low_activation(index, formats.high, formats.low)
        assert ("peephole" in read) == peepholes
        if peepholes:
            values = np.array(read["peephole"], np.uint32).view(np.float32)
            assert (values == stored.peephole[direction]).all()
        rows = {}
        if formats.profile == "fixed":
            unit = twin.FixedUnit(network, stored, direction)
            assert signed(read["tanh"], 16).tolist() == list(twin.tanh_table())
            for side, at in (("x", 0), ("h", 1)):
                exponents = signed(read[f"unit-{side}-exponent"], 16)
                rows[side] = list(zip(read[f"unit-{side}"], exponents.tolist(), strict=True))
                assert rows[side] == [row[at] for low in (False, True) for row in unit.rows[low]]
            assert signed(read["unit-bias"], 32).tolist() == [row[2] for low in (False, True) for row in unit.rows[low]]
            if peepholes:
                pairs = signed(read["unit-peephole"], 32).reshape(-1, 2).tolist()
                assert pairs == [list(pair) for part in unit.peephole for pair in part]
            assert signed(read["unit-output"], 32).tolist() == list(unit.to_m)
            assert signed(read["unit-projection"], 32).reshape(-1, 2).tolist() == [list(pair) for pair in unit.to_p]
        else:
            unit = twin.FloatUnit(network, stored, direction)
            for at, name in enumerate(("unit-x", "unit-h", "unit-bias")):
                values = np.array(read[name], np.uint32).view(np.float32)
                assert values.tolist() == [float(row[at]) for low in (False, True) for row in unit.rows[low]]


def test_an_index_of_the_input_is_the_one_that_the_emulator_uses(make_network, tmp_path, capsys):
    network, rng = make_network((4,)), np.random.default_rng(1)
    x = rng.normal(size=(9, 3)).astype(np.float32)
    fxp.save(network, tmp_path / "m.h5")
    traces.Data.of([x]).write(tmp_path / "d.h5")
    code, _, _ = call(capsys, "dump", tmp_path / "m.h5", "-q", "input", "--data", tmp_path / "d.h5", "--steps", "3:", "-o",
                      tmp_path / "x.hex")  # fmt: skip
    assert code == 0
    expected = np.array(twin.quantise_input(network.layers[0], x[3:], 8)).reshape(-1)
    assert (signed(memory(tmp_path / "x.hex"), 8) == expected).all()


@pytest.mark.parametrize(("arguments", "said"), [
    (["t.h5", "-q", "hat"], "a trace has plan"), (["t.h5", "--layer", "2"], "layers 0 to 1"),
    (["t.h5", "--sequence", "3"], "positions are 0 to 2"), (["t.h5", "--steps", "2:2"], "expected A:B"),
    (["t.h5", "--steps", "x"], "expected A:B"), (["t.h5", "--steps", "0:4"], "B <= 3"), (["t.h5", "-f", "mat"], "hex, csv, npy"),
    (["bare.h5", "-q", "cell"], "--record cell"), (["m.h5", "-q", "hat"], "wx-upper"), (["m.h5", "-q", "input"], "--data"),
    (["d.h5"], "neither a trace nor a model"), (["t.h5", "-o", "t.h5"], "is an input"), (["t.h5", "-o", "no/x"], "no/x"),
])  # fmt: skip
def test_bad_input_is_one_line_and_exit_2(tmp_path, monkeypatch, capsys, arguments, said):
    monkeypatch.chdir(tmp_path)
    samples.trace("t.h5")
    samples.trace("bare.h5", record=())
    samples.model().write("m.h5")
    samples.data().write("d.h5")
    code, _, error = call(capsys, "dump", "-o", "x.hex", *arguments)
    assert code == 2 and error.count("\n") == 1 and said in error
    assert sorted(path.name for path in tmp_path.iterdir()) == ["bare.h5", "d.h5", "m.h5", "t.h5"]


def test_a_replay_of_a_plan_does_not_differ(make_network, tmp_path):
    network, rng = make_network((5, 4)), np.random.default_rng(2)
    x = [rng.normal(size=(n, 3)).astype(np.float32) for n in (12, 7)]
    record = ("cell", "hidden", "accumulators")
    options = {"engine": "reference", "record": record}
    fxp.emulate(network, x, accel.Peak(profile_steps=2), trace=tmp_path / "a.h5", **options)
    with traces.open(tmp_path / "a.h5") as plan:
        fxp.emulate(network, x, accel.Schedule(plan), trace=tmp_path / "b.h5", **options)
    fxp.emulate(network, x, accel.Static(8), trace=tmp_path / "c.h5", **options)
    found = differences.find(tmp_path / "a.h5", tmp_path / "b.h5", network.model)
    assert found.same and [name for name, *_ in found.notes] == ["controller"]
    found = differences.find(tmp_path / "a.h5", tmp_path / "c.h5", network.model)
    assert found.first.quantity == "plan" and found.first.place["step"] == 0


def test_patterns_are_twos_complement():
    assert bits.pattern(-1, 5) == ("1f", "11111") and bits.pattern(3, 4) == ("3", "0011")
    assert bits.pattern(-(2**23), 24) == ("800000", "1" + "0" * 23)


@pytest.mark.skipif(shutil.which("iverilog") is None, reason="no Icarus Verilog on this machine; nothing was simulated")
def test_the_test_bench_of_the_page_agrees_with_the_trace(tmp_path):
    """The shell blocks of docs/rtl.md, the simulation included."""
    text = (ROOT / "docs" / "rtl.md").read_text(encoding="utf-8")
    script = "\n".join(re.findall(r"```sh\n(.*?)```", text, re.S))
    assert "vvp" in script and "diff" in script
    import os
    import sys

    environment = os.environ | {"PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"}
    done = subprocess.run(["bash", "-euo", "pipefail", "-c", script], cwd=tmp_path, env=environment, capture_output=True,
                          text=True, timeout=600)  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr
