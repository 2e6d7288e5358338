"""The command line: every command, its JSON, its help, and one line for every kind of bad input."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import h5py
import numpy as np
import pytest
import typer

import accel
import fxp
import traces
from fxp import networks
from fxp.cli import app, main, output
from traces import InputError

F32 = np.float32
FXP = Path(sys.executable).with_name("fxp")


def features(*lengths, size=3):
    rng = np.random.default_rng(len(lengths))
    return [rng.normal(size=(n, size)).astype(F32) for n in lengths]


@pytest.fixture(scope="module")
def made(make_network, tmp_path_factory):
    """A folder with a small file of every kind, and damaged ones."""
    folder = tmp_path_factory.mktemp("made")
    x, rng = features(9, 4, 12), np.random.default_rng(0)
    network = make_network((6,), classes=3, metric="accuracy")
    labels = [rng.integers(0, 3, len(v)) for v in x]
    fxp.save(network, folder / "model.h5")
    fxp.save(make_network((6,), embedding=5), folder / "tokens-model.h5")
    traces.Data.of(x, labels, name="held out").write(folder / "data.h5")
    traces.Data.of(x, [9, 9, 9]).write(folder / "last.h5")
    traces.Data.of(x, [label + 7 for label in labels]).write(folder / "labels.h5")
    traces.Data.of([rng.integers(0, 5, 8), rng.integers(0, 5, 3)]).write(folder / "tokens.h5")
    traces.Data.of([[1, 2, 9]]).write(folder / "far-tokens.h5")
    traces.Data.of(features(3, 4, size=2)).write(folder / "narrow.h5")
    fxp.emulate(network, x, accel.Random(0.5), trace=folder / "run.h5", record=("cell",))
    accel.estimate(folder / "run.h5").write(folder / "estimate.h5")
    np.save(folder / "x.npy", np.stack(features(5, 5)))
    np.savez(folder / "ragged.npz", values=np.concatenate(x), offsets=[0, 9, 13, 25], labels=np.concatenate(labels))
    for name in ("model", "data", "run", "estimate"):
        content = (folder / f"{name}.h5").read_bytes()
        (folder / f"{name}-cut.h5").write_bytes(content[: len(content) * 2 // 3])
        with h5py.File(shutil.copy(folder / f"{name}.h5", folder / f"{name}-new.h5"), "r+") as file:
            file.attrs.modify("version", 99)
    (folder / "text.h5").write_text("not HDF5")
    (folder / "empty.h5").touch()
    with h5py.File(folder / "foreign.h5", "w") as file:
        file["x"] = [1, 2]
    with h5py.File(shutil.copy(folder / "model.h5", folder / "model-nan.h5"), "r+") as file:
        file["layers/0/wh_float"][0, 3, 2] = np.nan
    with h5py.File(shutil.copy(folder / "model.h5", folder / "model-shape.h5"), "r+") as file:
        del file["layers/0/bias"]
        file["layers/0/bias"] = np.zeros((1, 23), F32)
    with h5py.File(shutil.copy(folder / "data.h5", folder / "data-empty.h5"), "r+") as file:
        file["offsets"][1] = 0
    with h5py.File(shutil.copy(folder / "data.h5", folder / "data-nan.h5"), "r+") as file:
        file["features"][20, 1] = np.inf
    arrays = {
        "nan.npy": np.full((2, 4, 3), np.nan), "huge.npy": np.full((2, 4, 3), 1e300), "narrow.npy": np.ones((2, 4, 2)),
        "flat.npy": np.ones(4), "scalar.npy": np.float64(1), "text.npy": np.array(["a"]), "none.npy": np.ones((0, 4, 3)),
        "void.npy": np.ones((2, 0, 3)), "far.npy": np.full((2, 4), 2**40), "complex.npy": np.ones((2, 4, 3), complex),
    }  # fmt: skip
    for name, array in arrays.items():
        np.save(folder / name, array)
    np.save(folder / "object.npy", np.array([{"a": 1}], object), allow_pickle=True)
    (folder / "cut.npy").write_bytes((folder / "x.npy").read_bytes()[:200])
    (folder / "text2.npz").write_text("no zip")
    values = np.ones((5, 3))
    for name, content in {
        "no-values": {"x": values}, "offsets": {"values": values, "offsets": [0, 9]},
        "float-offsets": {"values": values, "offsets": [0.5, 5]}, "no-step": {"values": values, "offsets": [0, 2, 2, 5]},
        "labels": {"values": values, "labels": [1, 2]}, "float-labels": {"values": values, "labels": np.ones(5) / 2},
        "one-label": {"values": values, "labels": 3},
    }.items():  # fmt: skip
        np.savez(folder / f"bad-{name}.npz", **content)
    (folder / "machine.yaml").write_text("name: [1")
    (folder / "folder").mkdir()
    return folder


@pytest.fixture
def here(made, monkeypatch):
    """The folder of files as the working directory."""
    monkeypatch.chdir(made)
    return made


def run(*arguments):
    """Exit code of a command in this process."""
    with pytest.raises(SystemExit) as end:
        main([str(argument) for argument in arguments])
    return end.value.code


def answer(capfd, *arguments):
    """What a command with --json answers; nothing else may be printed."""
    assert run(*arguments, "--json") == 0
    captured = capfd.readouterr()
    assert captured.err == ""
    return json.loads(captured.out)


def content(folder):
    return {str(p): p.read_bytes() for p in folder.rglob("*") if p.is_file()}


# Every command


def commands(group, path=()):
    for name, command in group.commands.items():
        if hasattr(command, "commands"):
            yield from commands(command, (*path, name))
        else:
            yield (*path, name)


COMMANDS = sorted(commands(typer.main.get_command(app)))


def test_the_commands_are_there():
    expected = {"export", "quantize", "info", "run", "compare", "estimate", "reproduce", "warmup", "demo", "arch show", "calibrate", "finetune"}
    assert expected <= {" ".join(path) for path in COMMANDS}


@pytest.mark.parametrize("command", COMMANDS, ids=" ".join)
def test_help_has_an_example_and_json(command, capfd):
    assert run(*command, "--help") == 0
    captured = capfd.readouterr()
    text = " ".join(captured.out.replace("│", " ").split())
    assert f"Example: fxp {' '.join(command)}" in text and "--json" in text and captured.err == ""


def test_run(here, capfd, tmp_path):
    network, trace = fxp.load("model.h5"), tmp_path / "t.h5"
    result = answer(
        capfd, "run", "model.h5", "data.h5", "-C", "random:low_share=0.4,seed=3", "-t", trace, "--record", "cell",
        "--record", "accumulators", "--threads", 2,
    )  # fmt: skip
    with traces.open("data.h5") as data:
        expected = fxp.emulate(network, data, accel.Random(0.4, 3))
        table = fxp.evaluate(network, data, [accel.Random(0.4, 3)])
        digest = data.digest()
    assert result["controller"] == {"name": "random", "low_share": 0.4, "seed": 3}
    assert result["low_share"] == expected.low_share and result["overflows"] == expected.overflows
    assert result["metric"] == {"name": "accuracy", "value": table[0].metric}
    assert (result["sequences"], result["steps"], result["trace"]) == (3, 25, str(trace))
    assert result["layers"] == [{"low_share": expected.low_share, "overflows": expected.overflows}]
    with traces.open(trace, kind="trace") as opened:
        assert opened.low_share == expected.low_share and opened.data_digest == digest
        assert opened.layers[0].recorded == ("cell", "accumulators")
    assert run("run", "model.h5", "data.h5", "-C", f"schedule:plan={trace}") == 0
    captured = capfd.readouterr()
    assert "low share" in captured.out and "accuracy" in captured.out and captured.err == ""


@pytest.mark.parametrize("data", ["x.npy", "ragged.npz", "data.h5"])
@pytest.mark.parametrize("engine", ["fast", "portable", "reference"])
def test_run_on_every_kind_of_data_and_engine(here, capfd, data, engine):
    result = answer(capfd, "run", "model.h5", data, "--engine", engine, "-C", "delta:threshold=0.2")
    same = answer(capfd, "run", "model.h5", "x.npy" if data == "x.npy" else "data.h5", "-C", "delta:threshold=0.2")
    assert result == {**same, "metric": result["metric"]} and 0 < result["low_share"] < 1
    assert (result["metric"] is None) == (data == "x.npy")
    assert data != "data.h5" or result["metric"] == same["metric"]


def test_run_on_tokens(here, capfd):
    result = answer(capfd, "run", "tokens-model.h5", "tokens.h5")
    assert result["steps"] == 11 and result["metric"] is None and result["controller"]["name"] == "peak"


def test_compare(here, capfd):
    result = answer(capfd, "compare", "model.h5", "data.h5")
    with traces.open("data.h5") as data:
        assert result == json.loads(json.dumps(fxp.evaluate(fxp.load("model.h5"), data).to_dict()))
    assert [row["controller"] for row in result["rows"]] == ["float", "static", "static", "random", "peak"]
    chosen = answer(capfd, "compare", "model.h5", "data.h5", "-C", "float", "-C", "static-low", "-C", "random", "-C", "peak")
    assert chosen["rows"] == [result["rows"][n] for n in (0, 2, 3, 4)]
    assert run("compare", "model.h5", "x.npy") == 0
    captured = capfd.readouterr()
    assert "static 8 bits" in captured.out and "output mse" in captured.out and "0.0 %" in captured.out
    assert "e-0" in captured.out  # small errors keep their digits


def test_quantize_and_info(here, capfd, tmp_path):
    result = answer(
        capfd, "quantize", "model.h5", "-o", tmp_path / "m.h5", "-c", "x.npy", "--high", 6, "--low", 3, "--profile", "fixed",
        "--accumulator-bits", 16, "--overflow", "clamp", "--granularity", "gate",
    )  # fmt: skip
    model = traces.Model.read(tmp_path / "m.h5")
    assert (model.high, model.low, model.profile, model.accumulator_bits) == (6, 3, "fixed", 16)
    assert (model.overflow, model.granularity, model.metric) == ("clamp", "gate", "accuracy")
    assert result.pop("precision")["high"] == 6
    assert result == answer(capfd, "info", tmp_path / "m.h5")
    assert result["digest"] == model.digest() and result["kind"] == "model" and result["head"]["scope"] == "step"
    shutil.copy(tmp_path / "m.h5", tmp_path / "again.h5")
    assert run("quantize", tmp_path / "again.h5", "-o", tmp_path / "again.h5", "-c", "data.h5") == 0
    assert traces.Model.read(tmp_path / "again.h5").high == 8


@pytest.mark.parametrize(
    ("file", "kind"), [("model.h5", "model"), ("data.h5", "data"), ("run.h5", "trace"), ("estimate.h5", "estimate")]
)
def test_info_on_every_kind(here, capfd, file, kind):
    result = answer(capfd, "info", file)
    assert result["kind"] == kind and result["file"] == file
    assert run("info", file) == 0
    captured = capfd.readouterr()
    assert f"kind: {kind}" in captured.out and captured.err == ""
    with pytest.raises(json.JSONDecodeError):
        json.loads(captured.out)


def test_estimate(here, capfd, tmp_path):
    result = answer(capfd, "estimate", "run.h5", "-o", tmp_path / "e.h5")
    assert result == json.loads(json.dumps(accel.estimate("run.h5").to_dict()))
    assert traces.open(tmp_path / "e.h5", kind="estimate").record == result
    alone = answer(capfd, "estimate", "run.h5", "-m", "epur", "-b", "none")
    assert alone == json.loads(json.dumps(accel.estimate("run.h5", "epur", baseline=None).to_dict()))
    assert run("estimate", "run.h5") == 0
    assert "speedup" in capfd.readouterr().out


def test_machines_and_tables(here, capfd):
    names = [entry["name"] for entry in answer(capfd, "arch", "list")]
    assert names == list(accel.machines()) and "epur-dyn" in names
    constants = answer(capfd, "arch", "show", "epur-sip")
    assert all({"name", "value"} <= set(constant) for constant in constants)
    file = Path(accel.__file__).parent / "presets" / "epur-sip.yaml"
    assert answer(capfd, "arch", "validate", file) == {"file": str(file), "name": "epur-sip", "valid": True}
    for command in (["arch", "list"], ["arch", "show", "epur-dyn"], ["arch", "validate", str(file)]):
        assert run(*command) == 0
        captured = capfd.readouterr()
        assert captured.out and captured.err == ""


def test_reproduce(capfd, monkeypatch):
    """The tables take seconds, so they are made once and shown twice."""
    result = answer(capfd, "reproduce")
    assert {"network", "quantity", "reported", "modelled", "bound"} <= set(result["rows"][0])
    monkeypatch.setattr(accel, "reproduce", lambda: result)
    assert run("reproduce") == 0
    captured = capfd.readouterr()
    assert result["rows"][0]["network"] in captured.out and captured.err == ""


def test_warmup(capfd):
    result = answer(capfd, "warmup")
    assert result["kernels"] > 0 and result["seconds"] > 0


def test_demo(capfd, tmp_path):
    result = answer(capfd, "demo", "--sequences", 3, "-o", tmp_path / "out")
    keys = {
        "controller", "metric", "difference", "interval", "low_share", "cycles", "speedup", "energy_pj", "energy_saving",
    }  # fmt: skip
    rows = {row["controller"]: row for row in result["rows"]}
    assert list(rows)[:5] == ["float", "static 8", "static 4", "random", "peak"]
    assert all(keys <= set(row) for row in result["rows"])
    base, low, peak, random = (rows[name] for name in ("static 8", "static 4", "peak", "random"))
    assert (base["difference"], base["interval"], base["low_share"], base["speedup"]) == (0, [0, 0], 0, 1)
    assert rows["float"]["cycles"] is rows["float"]["energy_pj"] is rows["float"]["low_share"] is None
    assert low["low_share"] == 1 and 0 < peak["low_share"] < 1 and abs(random["low_share"] - peak["low_share"]) < 0.05
    for row in (low, peak, random):
        assert row["difference"] == pytest.approx(row["metric"] - base["metric"], abs=1e-12)
        assert row["interval"][0] <= row["difference"] <= row["interval"][1]
        assert row["energy_saving"] == pytest.approx(1 - row["energy_pj"] / base["energy_pj"], abs=1e-12)
        assert row["speedup"] == pytest.approx(base["cycles"] / row["cycles"], rel=0.01)
    files = result["files"]
    network = fxp.load(files["model"])
    assert network.digest == fxp.load(networks.path("kjv")).digest
    with traces.open(files["trace"], kind="trace") as trace:
        assert trace.low_share == peak["low_share"] and len(trace.ids) == 3 and trace.model_digest == network.digest
        assert trace.controller["name"] == "peak"
    estimate = traces.open(files["estimate"], kind="estimate")
    assert estimate.record["cycles"] == peak["cycles"] and estimate.record["speedup"] == peak["speedup"]
    assert Path(files["picture"]).read_bytes().startswith(b"\x89PNG")
    assert {str(p) for p in (tmp_path / "out").iterdir()} == set(files.values())


# Bad input: exit code 2, one line on standard error, files as they were

OUT = "out.h5"
RUN, INFO = ["run", "model.h5", "data.h5"], ["info"]
BAD_MODELS = [
    "text.h5", "empty.h5", "foreign.h5", "model-cut.h5", "model-new.h5", "model-nan.h5", "model-shape.h5", "data.h5",
    "run.h5", "estimate.h5", "missing.h5", "folder", "x.npy",
]  # fmt: skip
BAD_DATA = [
    "text.h5", "empty.h5", "foreign.h5", "data-cut.h5", "data-new.h5", "data-empty.h5", "data-nan.h5", "model.h5", "run.h5",
    "missing.h5", "missing.npy", "missing.npz", "folder", "narrow.h5", "tokens.h5", "nan.npy", "huge.npy", "narrow.npy",
    "flat.npy", "scalar.npy", "text.npy", "none.npy", "void.npy", "far.npy", "complex.npy", "object.npy", "cut.npy",
    "text2.npz", "bad-no-values.npz", "bad-offsets.npz", "bad-float-offsets.npz", "bad-no-step.npz", "bad-labels.npz",
    "bad-float-labels.npz", "bad-one-label.npz",
]  # fmt: skip
CASES = [
    *[(["run", file, "data.h5", "-t", OUT], file) for file in BAD_MODELS],
    *[(["run", "model.h5", file, "-t", OUT], file) for file in [*BAD_DATA, "last.h5", "labels.h5"]],
    *[(["run", "tokens-model.h5", file, "-t", OUT], file) for file in ("data.h5", "far-tokens.h5", "far.npy", "x.npy")],
    *[(["compare", "model.h5", file], file) for file in ("narrow.npy", "nan.npy", "labels.h5", "last.h5", "data-cut.h5")],
    *[(["compare", file, "data.h5"], file) for file in ("model-cut.h5", "run.h5")],
    *[(["quantize", file, "-o", OUT, "-c", "x.npy"], file) for file in ("model-nan.h5", "model-cut.h5", "data.h5")],
    *[(["quantize", "model.h5", "-o", OUT, "-c", file], file) for file in [*BAD_DATA[:8], "narrow.npy", "none.npy"]],
    *[(["quantize", "tokens-model.h5", "-o", OUT, "-c", file], file) for file in ("far-tokens.h5", "x.npy")],
    *[(["estimate", file, "-o", OUT], file) for file in ("text.h5", "run-cut.h5", "run-new.h5", "model.h5", "missing.h5")],
    *[(["info", file], file) for file in ("text.h5", "empty.h5", "foreign.h5", "x.npy", "folder", "missing.h5")],
    *[(["info", f"{kind}-{fault}.h5"], kind) for kind in ("model", "data", "run", "estimate") for fault in ("cut", "new")],
    ([*RUN, "-t", "folder"], "folder"),
    ([*RUN, "-t", "missing/out.h5"], "missing/out.h5"),
    ([*RUN, "-t", "data.h5"], "data.h5: is an input"),
    ([*RUN, "-t", "./model.h5"], "model.h5: is an input"),
    ([*RUN, "-C", "nothing"], "nothing"),
    ([*RUN, "-C", "static:bits=5"], "precisions 8 and 4"),
    ([*RUN, "-C", "static-high:bits=4"], "wrong or missing parameters"),
    ([*RUN, "-C", "random:low_share=2"], "low_share"),
    ([*RUN, "-C", "schedule:plan=data.h5"], "data.h5"),
    ([*RUN, "-C", "schedule:plan=run-cut.h5"], "run-cut.h5"),
    ([*RUN, "--engine", "quick"], "quick"),
    ([*RUN, "--record", "cell"], "--trace"),
    ([*RUN, "--record", "all", "-t", OUT], "all"),
    ([*RUN, "--threads", "0"], "threads"),
    ([*RUN, "--threads", "two"], "threads"),
    ([*RUN, "--nothing"], "--nothing"),
    (["run", "model.h5"], "data"),
    (["nothing"], "nothing"),
    (["compare", "model.h5", "data.h5", "-C", "random"], "there is none"),
    (["compare", "model.h5", "data.h5", "--engine", "quick"], "quick"),
    (["quantize", "model.h5", "-o", "folder", "-c", "x.npy"], "folder"),
    (["quantize", "model.h5", "-o", "missing/m.h5", "-c", "x.npy"], "missing/m.h5"),
    (["quantize", "model.h5", "-o", "x.npy", "-c", "x.npy"], "x.npy: is an input"),
    (["quantize", "model.h5", "-o", OUT, "-c", "x.npy", "--high", "9"], "high"),
    (["quantize", "model.h5", "-o", OUT, "-c", "x.npy", "--low", "9"], "low"),
    (["quantize", "model.h5", "-o", OUT, "-c", "x.npy", "--high", "4", "--low", "6"], "low is 6 and high is 4"),
    (["quantize", "model.h5", "-o", OUT, "-c", "x.npy", "--high", "8.5"], "high"),
    (["quantize", "model.h5", "-o", OUT, "-c", "x.npy", "--accumulator-bits", "64"], "accumulator_bits"),
    (["quantize", "model.h5", "-o", OUT, "-c", "x.npy", "--profile", "double"], "double"),
    (["quantize", "model.h5", "-o", OUT, "-c", "x.npy", "--overflow", "trap"], "trap"),
    (["quantize", "model.h5", "-o", OUT, "-c", "x.npy", "--granularity", "column"], "column"),
    (["quantize", "model.h5", "-o", OUT], "calibration"),
    (["estimate", "run.h5", "-m", "nothing"], "nothing"),
    (["estimate", "run.h5", "-b", "nothing"], "nothing"),
    (["estimate", "run.h5", "-m", "machine.yaml"], "machine.yaml"),
    (["estimate", "run.h5", "-m", "text.h5"], "text.h5"),
    (["estimate", "run.h5", "-o", "folder"], "folder"),
    (["estimate", "run.h5", "-o", "run.h5"], "run.h5: is an input"),
    (["arch", "show", "nothing"], "nothing"),
    (["arch", "validate", "machine.yaml"], "machine.yaml"),
    (["arch", "validate", "missing.yaml"], "missing.yaml"),
    (["arch", "nothing"], "nothing"),
    (["demo", "--sequences", "1"], "sequences"),
    (["demo", "-o", "model.h5"], "model.h5"),
    (["demo", "-o", "model.h5/out"], "model.h5/out"),
]  # fmt: skip


@pytest.mark.parametrize(("arguments", "named"), CASES, ids=[" ".join(case[0]) for case in CASES])
def test_bad_input(here, capfd, recwarn, arguments, named):
    before = content(here)
    assert run(*arguments) == 2
    captured = capfd.readouterr()
    assert captured.out == "" and not recwarn.list
    assert captured.err.startswith("fxp: ") and captured.err.count("\n") == 1 and named in captured.err
    assert content(here) == before


def test_bad_input_with_json_leaves_standard_output_empty(here, capfd):
    assert run(*RUN, "-C", "nothing", "--json") == 2
    captured = capfd.readouterr()
    assert captured.out == "" and captured.err.count("\n") == 1


def test_an_existing_output_survives_bad_input(here, capfd, tmp_path):
    target = tmp_path / "t.h5"
    target.write_bytes(b"before")
    for arguments in (
        ["run", "model.h5", "data-nan.h5", "-t", target], ["run", "model.h5", "labels.h5", "-t", target],
        ["run", "model.h5", "data-cut.h5", "-t", target], ["quantize", "model.h5", "-o", target, "-c", "nan.npy"],
        ["estimate", "run-cut.h5", "-o", target],
    ):  # fmt: skip
        assert run(*arguments) == 2
        assert target.read_bytes() == b"before" and list(tmp_path.iterdir()) == [target]
    assert run(*RUN, "-t", target) == 0 and target.read_bytes() != b"before"


def test_a_fault_of_the_program_is_said_to_be_one(here, capfd, monkeypatch):
    def broken(path):
        raise ZeroDivisionError("a\nfault")

    monkeypatch.setattr("fxp.network.load", broken)
    assert run(*RUN) == 1
    captured = capfd.readouterr()
    assert captured.out == "" and captured.err.count("\n") == 1 and "internal fault: ZeroDivisionError" in captured.err
    monkeypatch.setenv("FXP_TRACEBACK", "1")
    with pytest.raises(ZeroDivisionError):
        main(RUN)


def test_interrupted(here, capfd, monkeypatch):
    def interrupted(path):
        raise KeyboardInterrupt

    monkeypatch.setattr("fxp.network.load", interrupted)
    assert run(*RUN) == 130 and capfd.readouterr().err == "fxp: interrupted; nothing half-written was left\n"


def test_odd_file_names_are_printed_as_they_are(here, capfd, tmp_path):
    odd = tmp_path / "m[red]x[b] :boom: ü.h5"
    shutil.copy("model.h5", odd)
    assert run("run", odd, "x.npy", "-t", tmp_path / "[b].h5") == 0
    captured = capfd.readouterr()
    assert odd.name in captured.out and "[b].h5" in captured.out
    for command in (["compare", odd, "x.npy"], ["info", odd], ["estimate", tmp_path / "[b].h5"]):
        assert run(*command) == 0
        assert odd.name in capfd.readouterr().out or command[0] == "estimate"


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        (None, "-"), (float("nan"), "-"), (0.0, "0.0000"), (1.23456, "1.2346"), (0.001, "0.0010"), (0.00099, "0.00099"),
        (1.2345e-5, "1.23e-05"), (-4e-7, "-4e-07"), (-2.5, "-2.5000"),
    ],
)  # fmt: skip
def test_numbers_in_tables(value, expected):
    assert output.number(value) == expected
    if value and value > 0:
        assert output.number(value, sign=True) == "+" + expected


def test_naming():
    with pytest.raises(InputError, match=r"^a\.h5: wrong$"), output.naming(Path("a.h5"), Path("b.h5")):
        raise InputError("wrong")
    with pytest.raises(InputError, match=r"^b\.h5: wrong$"), output.naming(Path("a.h5"), Path("b.h5")):
        raise InputError("b.h5: wrong")


# As a process of its own


def process(*arguments, **options):
    return subprocess.run(
        [str(argument) for argument in arguments], capture_output=True, text=True, timeout=300, **options
    )


def test_process(here):
    done = process(FXP, *RUN, "--json")
    assert done.returncode == 0 and done.stderr == "" and json.loads(done.stdout)["sequences"] == 3
    done = process(sys.executable, "-m", "fxp", "run", "model.h5", "huge.npy")
    assert done.returncode == 2 and done.stdout == "" and done.stderr.count("\n") == 1 and "huge.npy" in done.stderr


def test_process_without_arguments_and_version():
    done = process(FXP)
    assert done.returncode == 2 and "Usage" in done.stdout + done.stderr
    done = process(FXP, "--version")
    assert (done.returncode, done.stdout, done.stderr) == (0, f"fxp-lstm {fxp.__version__}\n", "")


@pytest.mark.skipif(os.name == "nt", reason="needs a pipe that can be closed at its reading end")
@pytest.mark.parametrize("json", [[], ["--json"]])
def test_process_whose_reader_is_gone(here, json):
    reading, writing = os.pipe()
    os.close(reading)
    with os.fdopen(writing, "w") as gone:
        done = subprocess.run([str(FXP), "info", "model.h5", *json], stdout=gone, stderr=subprocess.PIPE, text=True)
    assert done.returncode == 0 and done.stderr == ""
