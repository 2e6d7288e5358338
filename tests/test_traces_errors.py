"""Bad files and bad content: each is refused with one clear line, nothing crashes, nothing old is lost."""

import dataclasses
import os
import shutil
import subprocess
import sys
from pathlib import Path

import h5py
import numpy as np
import pytest
import traces_samples as samples

import traces
from traces import store

ROOT = Path(__file__).resolve().parent.parent
GOLDEN = ROOT / "tests/golden"


def refused(path, match, **options):
    """The message of the FormatError that opening raises: one line that names the file."""
    with pytest.raises(traces.FormatError, match=match) as caught:
        traces.open(path, **options)
    message = str(caught.value)
    assert message.startswith(str(path)) and "\n" not in message
    return message


@pytest.fixture
def edit(tmp_path):
    """Copy a golden file and change it with h5py."""

    def change(name, action):
        path = tmp_path / f"edited-{name}.h5"
        shutil.copy(GOLDEN / f"{name}.h5", path)
        with h5py.File(path, "r+") as file:
            action(file)
        return path

    return change


def replace(name, **creation):
    """An edit that puts another data set in the place of one; a callable `data` gets the old values."""

    def action(file):
        old = file[name][()]
        del file[name]
        data = creation.get("data", old)
        file.create_dataset(name, **{**creation, "data": data(old) if callable(data) else data})

    return action


def poke(name, index, value):
    """An edit that changes one value."""

    def action(file):
        values = file[name][()]
        if values.ndim:
            values[index] = value
        else:
            values = values.dtype.type(value)
        file[name][...] = values

    return action


def attribute(name, value):
    def action(file):
        group, _, last = name.rpartition("/")
        store.write_attribute(file[group or "/"], last, value)

    return action


def remove(name):
    return lambda file: file.__delitem__(name)


@pytest.mark.parametrize("content", [b"", b"not HDF5 at all", b"\x89HDF\r\n\x1a\n" + bytes(40)])
def test_not_hdf5(tmp_path, content):
    path = tmp_path / "x.h5"
    path.write_bytes(content)
    refused(path, "is not an HDF5 file or is truncated")


@pytest.mark.parametrize("name", ["model", "data", "trace", "estimate"])
def test_truncated(tmp_path, name):
    content = (GOLDEN / f"{name}.h5").read_bytes()
    for length in range(8, len(content), len(content) // 9):
        (tmp_path / "x.h5").write_bytes(content[:length])
        refused(tmp_path / "x.h5", "truncated")


def test_paths_that_cannot_be_read(tmp_path):
    for path, match in [
        (tmp_path / "none.h5", "No such file"),
        (tmp_path, "regular"),
        ("a\0b", "cannot be read"),
    ]:
        with pytest.raises(traces.InputError, match=match):
            traces.open(path)
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(traces.InputError, match="regular"):
        traces.open(tmp_path / "pipe")


def test_another_kind():
    refused(GOLDEN / "data.h5", "is a data file; a model file is needed", kind="model")
    refused(GOLDEN / "model.h5", "is a model file; a trace file is needed", kind="trace")
    for cls in (traces.Model, traces.Data, traces.Estimate):
        with pytest.raises(traces.FormatError, match="is a trace file"):
            cls.read(GOLDEN / "trace.h5")
    with pytest.raises(traces.InputError, match="kind is 'net'"):
        traces.open(GOLDEN / "model.h5", kind="net")


def test_format_and_version(edit):
    assert "versions 1 to 2" in refused(edit("model", attribute("version", 3)), "version 3 of fxp-lstm/model")
    refused(edit("model", attribute("version", 0)), "version 0")
    refused(edit("model", attribute("format", "other")), "format 'other'; known are fxp-lstm/model")
    refused(edit("model", lambda file: file.attrs.__delitem__("format")), "no format and version")
    refused(edit("model", attribute("format", 3)), "attribute format must be a single text")


MODEL = [
    (remove("layers/0/wx_index"), "layers/0/wx_index is missing"),
    (remove("layers"), "layers is missing"),
    (lambda f: f.move("layers/0", "layers/1"), "groups named 0 to 0"),
    (lambda f: f.create_dataset("layers/0/extra", data=1), "layers/0/extra is not part of the format"),
    (lambda f: f["layers/0"].attrs.__delitem__("hidden_size"), "attribute layers/0/hidden_size is missing"),
    (attribute("layers/0/hidden_size", 5), r"wx_float has shape .* \[D = 2, 4H = 20, N = 3\]"),
    (attribute("layers/0/hidden_size", 0), "hidden_size is 0; it must be within 1..65536"),
    (attribute("layers/0/projected", 1), "if and only if it is projected"),
    (attribute("layers/0/projected", 2), "within 0..1"),
    (attribute("layers/0/output_size", 3), "layers/0/wh_float has shape"),
    (attribute("high", 9), "attribute high is 9"),
    (attribute("low", 1), "attribute low is 1"),
    (attribute("high", 3), "attribute low is 4; it must not exceed high"),
    (attribute("profile", "double"), "profile is 'double'; it must be one of float32, fixed"),
    (attribute("accumulator_bits", 33), "accumulator_bits is 33"),
    (attribute("calibration", "{"), "attribute calibration is not JSON"),
    (attribute("calibration", "[1]"), "calibration is not a JSON object"),
    (attribute("calibration", '{"a": NaN}'), "NaN is not a number of JSON"),
    (attribute("calibration", '{"a":' * 100_000), "calibration is not JSON"),
    (attribute("calibration", '{"a": "\\ud800"}'), "valid Unicode"),
    (attribute("head/kind", "gru"), "head/kind is 'gru'"),
    (replace("layers/0/bias", dtype="<f8"), "layers/0/bias holds float64"),
    (replace("layers/0/bias", dtype=">f4"), "layers/0/bias holds >f4"),
    (replace("layers/0/wx_index", dtype="|u1", data=lambda old: abs(old)), "layers/0/wx_index holds uint8"),
    (replace("layers/0/bias", data=lambda old: old[:, :-1]), "layers/0/bias has shape"),
    (replace("layers/0/x_scale", data=np.ones(1, "<f4")), "layers/0/x_scale has shape"),
    (poke("layers/0/wx_float", (0, 1, 2), np.nan), r"wx_float\[0, 1, 2\] is nan; it must be finite"),
    (poke("layers/0/bias", (1, 2), np.inf), r"bias\[1, 2\] is inf"),
    (poke("layers/0/low_bias", (1, 2), 2.0**41), "low_bias.*magnitude at most 2\\^40"),
    (poke("layers/0/wx_scale", (0, 0), -1), r"wx_scale\[0, 0\] is -1.0; it must not be negative"),
    (poke("layers/0/wh_scale", (0, 0), np.nan), r"wh_scale\[0, 0\] is nan"),
    (poke("layers/0/x_scale", (), 0), "x_scale is 0.0; it must be positive"),
    (poke("layers/0/h_scale", (), -1), "h_scale is -1.0; it must be positive"),
    (poke("layers/0/input_scale", 1, 0), r"input_scale\[1\] is 0.0; it must be positive"),
    (poke("layers/0/wx_index", (0, 0, 0), -128), r"wx_index\[0, 0, 0\] is -128; it must be within ±127"),
    (poke("layers/0/wh_offset", (0, 0, 1), 2), r"wh_offset\[0, 0, 1\] is 2; it must be 0 or 1"),
    (lambda f: (poke("layers/0/wx_index", (0, 0, 0), 113)(f), poke("layers/0/wx_offset", (0, 0, 0), 1)(f)),
     "must be 0, since the shifted index is already 7"),
    (poke("embedding", (0, 0), np.nan), "embedding.*finite"),
    (replace("embedding", data=np.ones((5, 4), "<f4")), "has rows of 4; input_size of layer 0 is 3"),
    (replace("head/weight", data=np.ones((3, 5), "<f4")), "head/weight has 5 columns; the last layer has 8"),
]  # fmt: skip


@pytest.mark.parametrize(("action", "match"), MODEL, ids=[match for _, match in MODEL])
def test_bad_model(edit, action, match):
    refused(edit("model", action), match)


def test_peephole_values(edit):
    where = "layers/0/peephole"
    refused(edit("peepholes", poke(where, (0, 3), float("nan"))), "peephole.*must be finite")
    refused(edit("peepholes", poke(where, (0, 3), -(2.0**41))), "peephole.*at most 2")
    refused(edit("peepholes", attribute("version", 1)), "version 1 but content of version 2")


def test_projection_values(edit):
    refused(edit("projected", poke("layers/0/m_scale", (), 0)), "m_scale is 0.0; it must be positive")
    refused(edit("projected", poke("layers/0/wp_index", (0, 0, 0), -128)), "wp_index.*within ±127")
    refused(edit("projected", remove("layers/0/wp_scale")), "if and only if it is projected")


@pytest.mark.parametrize(
    ("change", "match"),
    [
        ({"x_scale": np.float32(0.5)}, "layers/1/x_scale is 0.5; h_scale of the layer below is"),
        ({"input_scale": np.full(12, 2, np.float32)}, r"layers/1/input_scale\[0\] is 2.0; it must be 1"),
        ({"x_scale": 0.1}, "float32 cannot hold exactly"),
        ({"x_scale": np.ones(1, np.float32)}, "x_scale must be a single float32"),
        ({"x_scale": "a"}, "x_scale must be a single float32"),
        ({"bias": [1.0]}, "layers/1/bias is list; it must be an array of"),
        ({"m_scale": np.float32(1)}, "if and only if"),
    ],
)
def test_bad_model_in_memory(tmp_path, change, match):
    model = samples.model()
    wrong = dataclasses.replace(
        model, layers=[model.layers[0], dataclasses.replace(model.layers[1], **change)]
    )
    with pytest.raises(traces.InputError, match=match):
        wrong.write(tmp_path / "m.h5")
    assert not list(tmp_path.iterdir())


def test_layers_must_fit():
    model = samples.model()
    for layer, match in [
        (samples.model(directions=1, layers=1, inputs=12).layers[0], "layers/1/directions is 1"),
        (samples.model(layers=1, inputs=13).layers[0], "input_size is 13; the layer below has 12"),
    ]:
        with pytest.raises(traces.InputError, match=match):
            dataclasses.replace(model, layers=[model.layers[0], layer]).validate()
    with pytest.raises(traces.InputError, match="layers is missing or empty"):
        dataclasses.replace(model, layers=[]).validate()
    with pytest.raises(traces.InputError, match="calibration cannot be written as JSON"):
        dataclasses.replace(model, calibration={"x": float("nan")}).validate()


DATA = [
    ("data", poke("offsets", 0, 1), r"offsets\[0\] is 1"),
    ("data", poke("offsets", 1, 4), "sequence 1 is empty"),
    ("data", poke("offsets", 2, 1), "sequence 1 is empty; offsets must increase"),
    ("data", poke("offsets", 3, 12), "offsets end at 12; there are 11 steps"),
    ("data", poke("ids", 0, 41), "ids: 41 occurs more than once"),
    ("data", replace("ids", data=np.arange(2)), "offsets has shape"),
    ("data", replace("offsets", data=np.zeros(1, np.int64)), "offsets has shape"),
    ("data", replace("step_labels", data=np.zeros(10, "<i4")), "step_labels has shape"),
    ("data", lambda f: f.move("step_labels", "labels"), "labels has shape"),
    ("data", lambda f: f.create_dataset("labels", data=np.zeros(3, "<i4")), "both labels and step_labels"),
    ("data", lambda f: f.create_dataset("tokens", data=np.zeros(11, "<i4")), "either features or tokens"),
    ("tokens", remove("tokens"), "either features or tokens"),
    ("data", lambda f: f.create_dataset("groups", data=np.zeros(3, "<i4")), "version 1 but content of version 2"),
    ("targets", attribute("version", 1), "version 1 but content of version 2"),
    ("targets", attribute("version", 3), "versions 1 to 2"),
    ("targets", replace("groups", data=np.zeros(2, "<i4")), "groups has shape"),
    ("targets", replace("step_targets", data=np.zeros((10, 3), "|u1")), "step_targets has shape"),
    ("targets", lambda f: f.create_dataset("labels", data=np.zeros(3, "<i4")), "both labels and step_targets"),
    ("sequences", remove("label_offsets"), "both label_values and label_offsets, or neither"),
    ("sequences", poke("label_offsets", 1, 3), "label_offsets decrease at sequence 1"),
    ("sequences", poke("label_offsets", 3, 5), "label_offsets must run from 0 to 4"),
    ("sequences", poke("label_offsets", 0, -1), "label_offsets must run from 0 to 4"),
    ("trace", remove("layers/0/plan"), "layers/0/plan is missing"),
    ("trace", poke("offsets", 3, 12), "offsets end at 12; there are 11 steps"),
    ("trace", poke("layers/0/low_count", (0, 1), 12), "counts are negative, or more low element-steps"),
    ("trace", poke("layers/0/overflow_count", (0, 1), -1), "counts are negative"),
    ("trace", attribute("profile", "fixed"), "layers/0/cell must hold int16 in profile fixed"),
    ("trace", attribute("low", 7), None),
    ("trace", attribute("high", 3), "must not exceed high"),
    ("trace", attribute("controller", "Peak"), "controller is not JSON"),
    ("estimate", poke("components/dynamic_pj", 0, np.nan), "dynamic_pj must be finite"),
    ("estimate", poke("components/area_mm2", 0, -1), "area_mm2 must be finite and not negative"),
    ("estimate", poke("layer_cycles", (0, 0), -1), "layer_cycles must not be negative"),
    ("estimate", poke("components/name", 0, b"dram"), "names must be distinct"),
    ("estimate", poke("components/name", 0, b"\xff"), "damaged"),
    ("estimate", replace("components/static_pj", data=np.ones(3)), "static_pj has shape"),
]


@pytest.mark.parametrize(("name", "action", "match"), DATA)
def test_bad_file(edit, name, action, match):
    path = edit(name, action)
    if match is None:
        traces.open(path).close()
    else:
        refused(path, match)


def test_values_are_checked_where_they_are_read(edit):
    path = edit("data", poke("features", (5, 2), np.inf))
    with traces.open(path) as data:
        data.sequence(0)
        with pytest.raises(traces.FormatError, match="step 5 of the data holds a value that is not finite"):
            data.sequence(2)
    with (
        traces.open(edit("tokens", poke("tokens", 1, -1))) as data,
        pytest.raises(traces.FormatError, match="step 1"),
    ):
        data.read()
    with traces.open(edit("trace", poke("layers/0/plan", (0, 4, 1), 255))) as trace:
        trace.layers[0].low(1)
        with pytest.raises(traces.FormatError, match="bits set beyond its 11 elements"):
            trace.layers[0].low(2)


def test_positions_that_do_not_exist():
    with traces.open(GOLDEN / "trace.h5") as trace:
        layer = trace.layers[0]
        for call in (
            lambda: layer.low(3), lambda: layer.low(-1), lambda: layer.low("a"), lambda: layer.low(0, 2),
            lambda: layer.low(0, -1), lambda: layer.packed(5, 12), lambda: layer.packed(5, 4),
        ):  # fmt: skip
            with pytest.raises(traces.InputError, match="not exist"):
                call()
    with traces.open(GOLDEN / "data.h5") as data:
        for call in (lambda: data.sequence(3), lambda: data.sequence(-1), lambda: data.chunk(0, 2, 1)):
            with pytest.raises(traces.InputError, match=r"not exist|not a piece"):
                call()
    with pytest.raises(traces.FormatError, match="damaged"):
        data.sequence(0)


class Hostile:
    """Edits that would make a careless reader follow, run or allocate something."""

    @staticmethod
    def soft_link(file):
        file.move("layers/0/bias", "layers/0/low_bias2")
        file["layers/0/bias"] = h5py.SoftLink("/layers/0/low_bias")

    @staticmethod
    def external_link(file):
        del file["layers/0/bias"]
        file["layers/0/bias"] = h5py.ExternalLink("/etc/passwd", "/x")

    @staticmethod
    def linked_group(file):
        del file["head"]
        file["head"] = h5py.SoftLink("/layers/0")

    @staticmethod
    def cycle(file):
        del file["layers/0"]
        file["layers/0"] = file["/"]

    @staticmethod
    def variable_length(file):
        del file["layers/0/bias"]
        file.create_dataset("layers/0/bias", (2, 16), h5py.vlen_dtype(np.float32))

    @staticmethod
    def text(file):
        del file["layers/0/bias"]
        file.create_dataset("layers/0/bias", (2, 16), h5py.string_dtype())

    @staticmethod
    def reference(file):
        del file["layers/0/bias"]
        file.create_dataset("layers/0/bias", (2, 16), h5py.ref_dtype)

    @staticmethod
    def compound(file):
        del file["layers/0/bias"]
        file.create_dataset("layers/0/bias", (2, 16), np.dtype([("a", "<f4")]))

    @staticmethod
    def named_type(file):
        del file["layers/0/bias"]
        file["layers/0/bias"] = np.dtype("<f4")

    @staticmethod
    def external_storage(file):
        del file["layers/0/bias"]
        file.create_dataset("layers/0/bias", (2, 16), "<f4", external=[("/etc/passwd", 0, 128)])

    @staticmethod
    def virtual(file):
        del file["layers/0/bias"]
        layout = h5py.VirtualLayout((2, 16), "<f4")
        layout[...] = h5py.VirtualSource("/etc/passwd", "x", (2, 16))
        file.create_virtual_dataset("layers/0/bias", layout)

    @staticmethod
    def foreign_filter(file):
        replace("layers/0/bias", chunks=(2, 16), compression="lzf")(file)

    @staticmethod
    def never_written(file):
        del file["layers/0/bias"]
        file.create_dataset("layers/0/bias", (2, 16), "<f4", chunks=(2, 16))

    @staticmethod
    def bomb(file):
        file["layers/0"].attrs["input_size"] = 65_536
        del file["layers/0/wx_float"]
        file.create_dataset(
            "layers/0/wx_float", (2, 16, 65_536 * 100), "<f4", chunks=(1, 1, 65_536), compression=9
        )
        file["layers/0/wx_float"][0, 0, :10] = 1

    @staticmethod
    def large_chunk(file):
        del file["layers/0/bias"]
        file.create_dataset(
            "layers/0/bias", (2, 16), "<f4", chunks=(2, 1 << 24), maxshape=(2, None), compression=9
        )
        file["layers/0/bias"][...] = 0

    @staticmethod
    def many_groups(file):
        for number in range(1, 1200):
            file.create_group(f"layers/{number}")

    @staticmethod
    def variable_attribute(file):
        file.attrs["name"] = "text of variable length"

    @staticmethod
    def array_attribute(file):
        file.attrs["high"] = np.arange(8)

    @staticmethod
    def group_for_data(file):
        del file["layers/0/bias"]
        file.create_group("layers/0/bias")

    @staticmethod
    def data_for_group(file):
        del file["head"]
        file["head"] = 1


HOSTILE = {
    "soft_link": "soft or external link|not part",
    "external_link": "soft or external link",
    "linked_group": "soft or external link",
    "cycle": "not part of the format|missing",
    "variable_length": "neither plain numbers",
    "text": "neither plain numbers",
    "reference": "neither plain numbers",
    "compound": "neither plain numbers",
    "named_type": "must be a data set",
    "external_storage": "outside the file",
    "virtual": "outside the file",
    "foreign_filter": "filter 32000; only gzip",
    "never_written": "was never written",
    "bomb": "out of proportion",
    "large_chunk": "chunks of over",
    "many_groups": "has 1200 members",
    "variable_attribute": "attribute name must be text of fixed length",
    "array_attribute": "attribute high must be a single integer",
    "group_for_data": "must be a data set",
    "data_for_group": "must be a group",
}


@pytest.mark.parametrize("name", HOSTILE)
def test_hostile_file(edit, name):
    refused(edit("model", getattr(Hostile, name)), HOSTILE[name])


def test_surrogates_in_text_are_refused(edit):
    def action(file):
        file.attrs.create("name", np.bytes_(b"\xff\xfe"), dtype=h5py.string_dtype("utf-8", 2))

    refused(edit("model", action), "damaged|Unicode")


def writers(path):
    """Every way to write a file, each with a way to fail half-way."""
    yield lambda: samples.model().write(path)
    yield lambda: samples.data().write(path)
    yield lambda: samples.estimate().write(path)
    yield lambda: samples.trace(path)


def test_unwritable_paths(tmp_path):
    (tmp_path / "file").write_text("x")
    for bad in (tmp_path, tmp_path / "none" / "x.h5", tmp_path / "file" / "x.h5", "", "a\0b"):
        for write in writers(bad):
            with pytest.raises(traces.InputError, match=r"regular file|cannot be written"):
                write()
    assert [path.name for path in tmp_path.iterdir()] == ["file"]


def test_a_failed_writer_leaves_the_old_file(tmp_path, monkeypatch):
    path = tmp_path / "x.h5"
    path.write_bytes(b"precious")
    with pytest.raises(ZeroDivisionError), traces.DataWriter(path, 2) as writer:
        writer.append(np.ones((3, 2), np.float32))
        raise ZeroDivisionError
    with pytest.raises(ZeroDivisionError), trace_writer(path) as writer:
        writer.write(0, 0, 0, np.zeros((2, 3), bool))
        raise ZeroDivisionError
    with pytest.raises(RuntimeError, match="rows of the trace are missing"), trace_writer(path) as writer:
        writer.write(0, 0, 0, np.zeros((2, 3), bool))
    with pytest.raises(RuntimeError, match="low counts differ"), trace_writer(path) as writer:
        writer.write(0, 0, 0, np.ones((4, 3), bool))
    monkeypatch.setattr(os, "replace", lambda *_: (_ for _ in ()).throw(PermissionError(13, "denied")))
    for write in writers(path):
        with pytest.raises(traces.InputError, match="cannot be written: denied"):
            write()
    assert path.read_bytes() == b"precious"
    assert [entry.name for entry in tmp_path.iterdir()] == ["x.h5"]


def test_a_full_disk(tmp_path):
    """A limit on the size of files stands for the full disk; in a child, since it holds for the process."""
    path = tmp_path / "x.h5"
    path.write_bytes(b"precious")
    script = f"""
import resource, sys
sys.path.insert(0, {str(ROOT / "tests")!r})
import numpy as np, traces, traces_samples as samples
resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, 20_000))
values = np.random.default_rng(0).standard_normal((400_000, 3)).astype(np.float32)
def stream():
    with traces.DataWriter({str(path)!r}, 3) as writer:
        writer.append(values)
def trace():
    samples.trace({str(path)!r}, lengths=(30_000,))
for write in (lambda: traces.Data.of([values]).write({str(path)!r}), stream, trace):
    try:
        write()
    except traces.InputError as error:
        print(error)
"""
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("cannot be written") == 3
    assert path.read_bytes() == b"precious" and len(list(tmp_path.iterdir())) == 1


def test_mode_and_links_are_kept(tmp_path):
    path = tmp_path / "x.h5"
    path.write_bytes(b"old")
    path.chmod(0o640)
    (tmp_path / "link.h5").symlink_to(path)
    samples.data().write(tmp_path / "link.h5")
    assert (tmp_path / "link.h5").is_symlink() and path.stat().st_mode & 0o777 == 0o640
    traces.Data.read(path)
    samples.data().write(tmp_path / "new.h5")
    mask = os.umask(0)
    os.umask(mask)
    assert (tmp_path / "new.h5").stat().st_mode & 0o777 == 0o666 & ~mask


def trace_writer(path, **options):
    about = {"lengths": [4], "layers": [(2, 3, 3, 1, False)], "controller": {"name": "x"}, **options}
    return traces.TraceWriter(path, **about)


def test_two_writers_on_one_path(tmp_path):
    with trace_writer(tmp_path / "t.h5", seed=1) as one, trace_writer(tmp_path / "t.h5", seed=2) as other:
        for writer in (one, other):
            writer.write(0, 0, 0, np.zeros((4, 3), bool))
    with traces.open(tmp_path / "t.h5") as trace:
        assert trace.seed == 1
    assert len(list(tmp_path.iterdir())) == 1


@pytest.mark.parametrize(
    ("options", "match"),
    [
        ({"lengths": []}, "lengths must be"),
        ({"lengths": [0]}, "sequence 0 is empty"),
        ({"lengths": [1.5]}, "lengths must be"),
        ({"ids": [1, 2]}, "ids must be 1 integers"),
        ({"lengths": [4, 4], "ids": [1, 1]}, "1 occurs more than once"),
        ({"layers": []}, "layers is missing or empty"),
        ({"layers": [(2, 3, 3, 3, False)]}, "directions is 3"),
        ({"record": ("states",)}, "record names 'states'"),
        ({"controller": {"a": {1, 2}}}, "controller cannot be written as JSON"),
        ({"profile": "double"}, "profile is 'double'"),
        ({"high": 4, "low": 5}, "must not exceed high"),
        ({"seed": 2**63}, "seed is"),
    ],
)
def test_bad_trace_parameters(tmp_path, options, match):
    with pytest.raises(traces.InputError, match=match):
        trace_writer(tmp_path / "t.h5", **options)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("row", "low", "more", "match"),
    [
        (0, np.zeros((4, 4), bool), {}, "the layer has 3 elements"),
        (0, np.zeros((4, 2), np.uint8), {}, "plan holds uint8"),
        (0, np.full((4, 1), 8, np.uint8), {}, "bits set beyond"),
        (2, np.zeros((4, 3), bool), {}, "rows 2 to 6 do not exist"),
        (-1, np.zeros((1, 3), bool), {}, "rows -1 to 0 do not exist"),
        (
            0,
            np.zeros((4, 3), bool),
            {"hidden": np.zeros((4, 3), np.int8)},
            "hidden must be given if and only if",
        ),
    ],
)
def test_bad_rows(tmp_path, row, low, more, match):
    with pytest.raises(traces.InputError, match=match), trace_writer(tmp_path / "t.h5") as writer:
        writer.write(0, 0, row, low, **more)
    assert not list(tmp_path.iterdir())


def test_bad_data_in_memory(tmp_path):
    values, offsets = np.ones((4, 2), np.float32), np.array([0, 4])
    for data, match in [
        (lambda: traces.Data(values, offsets, np.zeros(3, np.int32)), "labels have shape"),
        (lambda: traces.Data(values.astype(float), offsets), "features holds float64"),
        (lambda: traces.Data(values * np.nan, offsets), "step 0 of the data"),
        (lambda: traces.Data(-np.ones(4, np.int32), offsets), "negative token"),
        (lambda: traces.Data(values, [0, 4]), "offsets must be a NumPy array"),
        (lambda: traces.Data(values, offsets, np.full((4, 2), 2, np.uint8)), "step 0 of the data has a label"),
        (lambda: traces.Data(values, offsets, np.zeros((3, 2), np.uint8)), "labels have shape"),
        (lambda: traces.Data(values, offsets, [0]), "labels must be a NumPy array"),
        (lambda: traces.Data(values, offsets, groups=np.zeros(2, np.int32)), "groups has shape"),
        (lambda: traces.Data(values, offsets, label_offsets=offsets), "label_offsets belong to labels"),
        (lambda: traces.Data(values, offsets, np.zeros(2, np.int32), label_offsets=offsets), "run from 0 to 2"),
        (lambda: traces.Data.of([values], [np.full((4, 2), 3)]), "must be 0 or 1 each"),
        (lambda: traces.Data.of([values], [np.ones((4, 2))]), "expected integers or bool"),
        (lambda: traces.Data.of([values], [[1], [2]], "sequence"), "2 label sequences for 1"),
        (lambda: traces.Data.of([values], [[0, 1, 2, 3]], "last"), "scope is 'last'"),
        (lambda: traces.Data.of([]), "there are no sequences"),
        (lambda: traces.Data.of([values, values[:, :1]]), "same number of features"),
        (lambda: traces.Data.of([values, values[:0]]), "sequence 1 is empty"),
    ]:
        with pytest.raises(traces.InputError, match=match):
            data().write(tmp_path / "d.h5")
    assert not list(tmp_path.iterdir())


def test_bad_pieces_of_data(tmp_path):
    def attempt(match, *calls, **options):
        with (
            pytest.raises(traces.InputError, match=match),
            traces.DataWriter(tmp_path / "d", 2, **options) as writer,
        ):
            for name, *arguments in calls:
                getattr(writer, name)(*arguments)

    values = np.ones((4, 2), np.float32)
    attempt("no sequence to extend", ("extend", values))
    attempt("steps of shape", ("append", values[:, :1]))
    attempt("steps of shape", ("append", values[:0]))
    attempt("values hold int64", ("append", values.astype(int)))
    attempt("not finite", ("append", values * np.inf))
    attempt("if and only if there is a scope", ("append", values, 3))
    attempt("if and only if there is a scope", ("append", values), scope="last")
    attempt("one integer", ("append", values, [1, 2]), scope="last")
    attempt("4 integers, one a step", ("append", values, [1, 2]), scope="step")
    attempt("lengths must be")
    attempt("more than once", ("append", values, None, 5), ("append", values, None, 5))
    attempt("scope is 'all'", scope="all")
    assert not list(tmp_path.iterdir())


def test_memory_is_bounded_while_writing(tmp_path):
    """A gigabyte of accumulators passes through a writer that grows by less than a tenth of it."""
    script = f"""
import resource, numpy as np, traces
rows = np.zeros((2000, 2, 1024), np.int32)
plan, steps = np.zeros((2000, 32), np.uint8), 120_000
with traces.TraceWriter({str(tmp_path / "t.h5")!r}, lengths=[steps], layers=[(8, 256, 256, 1, False)],
                        controller={{}}, record=("accumulators",)) as writer:
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    for row in range(0, steps, 2000):
        writer.write(0, 0, row, plan, accumulators=rows)
print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before)
"""
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, timeout=100)
    assert done.returncode == 0, done.stderr
    assert int(done.stdout) < 100 * 1024 * (1 if sys.platform != "darwin" else 1024)
