"""Valid inputs of every kind, and damaged or hostile variants of them, each determined by a seed and a number."""

import io
import pickle
import pickletools
import shutil
import zipfile
from pathlib import Path

import h5py
import numpy as np
import traces_samples as samples
from conftest import make_network

import accel
import fxp
import traces

WORDS = [0, 1, -1, 2**15, 2**31 - 1, 2**31, 2**63 - 1, -(2**63)]
REALS = [0.0, -1.0, 1e-45, 1e38, 2.0**41, float("inf"), float("-inf"), float("nan")]
YAML = [
    "!!python/object/apply:os.system ['touch HIT']", "&a [*a, *a]", "*nothing", "{" * 60, "[" * 3000, "!!binary xx==", ".nan",
    "-.inf", "1e999", "9" * 5000, "0x" + "f" * 4000, "!!set {a, b}", "? [a]", "<<: {a: 1}", "2001-01-01 99:99:99", "null", "[]",
    "yes", "- x", "%TAG ! x:", "--- |", "\t", "\x00", "\ufeff", "é" * 100, "!!int '1_0:9_9'", "{value: 1, unit: pJ}",
]  # fmt: skip
JSON = [
    '{"a":' * 60_000, "[" * 300_000, '{"a":NaN}', '{"a":1e999}', '{"a":' + "9" * 6000 + "}", '{"a":"\\ud800"}', "[]", "", "nul",
    '{"name":"peak","beta":-1}', '{"a":{},"a":[]}', "[[],[]" * 5000,
]  # fmt: skip


class Inputs:
    """The valid inputs, in a folder.

    `files[kind]` are the contents that variants are made from; `commands[kind]` what the program does with one, which
    is called FILE in them. Nothing may be left in the folder but what `make` put there, OUT and FILE.
    """

    def __init__(self, folder, kinds):
        self.folder = folder
        self.files, self.commands = {}, {}
        for kind in kinds:
            paths, self.commands[kind] = getattr(self, kind)()
            self.files[kind] = [(path.suffix, path.read_bytes()) for path in paths]

    def _network(self, name="network.h5", **options):
        path = self.folder / name
        if not path.exists():
            fxp.save(make_network((6,), classes=3, metric="accuracy", **options), path)
        return path

    def _data(self):
        path = self.folder / "features.h5"
        if not path.exists():
            rng = np.random.default_rng(1)
            x = [rng.normal(size=(n, 3)).astype(np.float32) for n in (5, 2, 4)]
            traces.Data.of(x, [rng.integers(0, 3, len(v)) for v in x], name="held out").write(path)
        return path

    def _trace(self):
        path = self.folder / "run.h5"
        if not path.exists():
            samples.trace(path)
        return path

    def model(self):
        projected = self._network("projected.h5", directions=2, projection=4)
        commands = [["info", "FILE"], ["run", "FILE", self._data(), "--engine", "reference"],
                    ["quantize", "FILE", "-o", "OUT", "-c", self._data()]]  # fmt: skip
        return [self._network(), projected], commands

    def data(self):
        tokens = self.folder / "tokens.h5"
        traces.Data.of([[1, 2, 0], [2]], ids=[4, -9]).write(tokens)
        network = self._network()
        commands = [["info", "FILE"], ["run", network, "FILE", "--engine", "reference"],
                    ["quantize", network, "-o", "OUT", "-c", "FILE"]]  # fmt: skip
        return [self._data(), tokens], commands

    def trace(self):
        return [self._trace()], [["info", "FILE"], ["estimate", "FILE", "-o", "OUT"]]

    def estimate(self):
        path = self.folder / "estimate.h5"
        samples.estimate().write(path)
        return [path], [["info", "FILE"]]

    def machine(self):
        presets = Path(accel.__file__).parent / "presets"
        small = self.folder / "small.yaml"
        small.write_text("extends: epur-dyn\nname: mine\ndram:\n  energy: {value: 4, unit: pJ/bit, source: me}\n")
        paths = [small, presets / "epur-dyn.yaml", presets / "fusion-dyn.yaml"]
        return paths, [["arch", "validate", "FILE"], ["arch", "show", "FILE"], ["estimate", self._trace(), "-m", "FILE"]]

    def npy(self):
        path, tokens = self.folder / "x.npy", self.folder / "tokens.npy"
        np.save(path, np.random.default_rng(2).normal(size=(2, 5, 3)).astype(np.float32))
        np.save(tokens, np.array([[1, 2], [0, 1]]))
        return [path, tokens], [["run", self._network(), "FILE", "--engine", "reference"]]

    def npz(self):
        paths = [self.folder / "ragged.npz", self.folder / "packed.npz"]
        content = {"values": np.ones((9, 3), np.float32), "offsets": [0, 4, 9], "labels": np.zeros(9, int)}
        np.savez(paths[0], **content)
        np.savez_compressed(paths[1], **content)
        return paths, [["run", self._network(), "FILE", "--engine", "reference"]]

    def checkpoint(self):
        import torch

        module, paths = torch.nn.LSTM(3, 4), [self.folder / "lstm.pt", self.folder / "old.pt"]
        torch.save(module.state_dict(), paths[0])
        torch.save(module.state_dict(), paths[1], _use_new_zipfile_serialization=False)
        return paths, [["export", "FILE", "-o", "OUT", "-c", self._data()]]

    def onnx(self):
        from onnx import TensorProto, helper, numpy_helper, save

        rng, path = np.random.default_rng(3), self.folder / "lstm.onnx"
        shapes = {"W": (1, 16, 3), "R": (1, 16, 4), "B": (1, 32)}
        weights = [numpy_helper.from_array(rng.normal(size=v).astype(np.float32), k) for k, v in shapes.items()]
        node = helper.make_node("LSTM", ["X", "W", "R", "B"], ["Y"], name="lstm", hidden_size=4)
        ends = [helper.make_tensor_value_info(name, TensorProto.FLOAT, None) for name in "XY"]
        graph = helper.make_graph([node], "g", ends[:1], ends[1:], weights)
        save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)]), path)
        return [path], [["export", "FILE", "-o", "OUT", "-c", self._data()]]


def variant(inputs, kind, seed, number):
    """Suffix and content of a damaged or hostile input."""
    rng = np.random.default_rng([seed, number, *kind.encode()])
    suffix, original = inputs.files[kind][int(rng.integers(len(inputs.files[kind])))]
    special = {
        "model": _hdf5, "data": _hdf5, "trace": _hdf5, "estimate": _hdf5, "machine": _yaml, "npy": _npy, "npz": _zip,
        "checkpoint": _zip, "onnx": lambda rng, original, folder: _bytes(rng, original),
    }[kind]  # fmt: skip
    for _ in range(int(rng.choice([1, 2, 3], p=[0.7, 0.2, 0.1]))):
        original = special(rng, original, inputs.folder) if rng.random() < 0.6 else _bytes(rng, original)
    return suffix, original


def _bytes(rng, original):
    """A copy with flipped bits, a block overwritten, copied or filled, or its end cut off."""
    content = bytearray(original)
    if not content:
        return original
    how, at = int(rng.integers(5)), int(rng.integers(len(content)))
    size = int(rng.choice([1, 2, 4, 8, 16, 64]))
    if how == 0:
        return bytes(content[:at])
    if how == 1:
        for place in rng.integers(0, len(content), rng.integers(1, 9)):
            content[place] ^= 1 << rng.integers(8)
    elif how == 2:
        content[at : at + size] = rng.bytes(len(content[at : at + size]))
    elif how == 3:
        content[at : at + size] = bytes([int(rng.choice([0, 255, 127, 128]))]) * len(content[at : at + size])
    else:
        source = int(rng.integers(len(content)))
        content[at : at + size] = content[source : source + size]
    return bytes(content)


def _hdf5(rng, original, folder):
    """A well-formed file with a wrong value, type, shape, storage or link in it; the bytes where there is no way."""
    path = folder / "edited.h5"
    path.write_bytes(original)
    try:
        with h5py.File(path, "r+") as file:
            groups, datasets = [file], []
            file.visititems(lambda _, item: (groups if isinstance(item, h5py.Group) else datasets).append(item))
            if rng.random() < 0.4:
                _attribute(rng, groups[int(rng.integers(len(groups)))])
            else:
                _dataset(rng, datasets[int(rng.integers(len(datasets)))])
        return path.read_bytes()
    except (OSError, RuntimeError, ValueError, TypeError, KeyError, IndexError):
        return _bytes(rng, original)
    finally:
        path.unlink(missing_ok=True)


def _attribute(rng, group):
    names = list(group.attrs)
    if not names:
        return
    name, how = names[int(rng.integers(len(names)))], int(rng.integers(8))
    if how == 0:
        del group.attrs[name]
    elif how == 1:
        group.attrs[name] = np.int64(rng.choice(WORDS))
    elif how == 2:
        group.attrs[name] = "text of variable length"
    elif how == 3:
        group.attrs[name] = rng.normal(size=int(rng.integers(1, 5)))
    elif how == 4:
        group.attrs[name] = group.file[group.name].ref
    elif how == 5:
        group.attrs.create(name, np.int64(rng.choice(WORDS)), dtype=rng.choice(["<i8", ">i8", "<i4", "|u1", "<u8"]))
    else:
        text = str(rng.choice(JSON)).encode()[:60_000] if how == 6 else rng.bytes(20)
        kind = h5py.string_dtype("utf-8", max(1, len(text)))
        group.attrs.create(name, np.array(text, kind), dtype=kind)


def _dataset(rng, dataset):
    parent, name, values = dataset.parent, dataset.name.rpartition("/")[2], dataset[()]
    how = int(rng.integers(10))
    if how < 3 and np.size(values):
        flat = np.array(values).reshape(-1)
        extreme = rng.choice(WORDS) if flat.dtype.kind in "iu" else rng.choice(REALS)
        if flat.dtype.kind in "iuf":
            with np.errstate(all="ignore"):
                flat[int(rng.integers(flat.size))] = np.array([extreme]).astype(flat.dtype)[0]
            dataset[...] = flat.reshape(np.shape(values))
        return
    del parent[name]
    if how == 3:
        return
    if how == 4:
        parent[name] = np.array(values).astype(rng.choice(["<f8", ">f4", "|i1", "<i8", "|S3", "<c8", "|b1"]))
    elif how == 5:
        shape = [int(rng.choice([0, 1, 2, 3, 7])) for _ in range(int(rng.integers(0, 4)))]
        parent[name] = np.ones(shape, values.dtype)
    elif how == 6:
        huge = [int(rng.choice([1, 2**20, 2**31, 2**40])) for _ in range(max(1, np.ndim(values)))]
        parent.create_dataset(name, huge, values.dtype, chunks=tuple(min(n, 1024) for n in huge))
    elif how == 7:
        parent[name] = rng.choice([h5py.SoftLink("/"), h5py.SoftLink(f"{parent.name}/{name}"), h5py.ExternalLink("/etc/passwd", "/")])
    elif how == 8:
        shape = np.shape(values) or (1,)
        parent.create_dataset(name, shape, rng.choice([h5py.vlen_dtype(np.float32), h5py.ref_dtype, h5py.regionref_dtype, h5py.string_dtype()]))
    else:
        options = [{"compression": "lzf"}, {"scaleoffset": 2}, {"external": [("/etc/passwd", 0, 1 << 20)], "chunks": None}]
        parent.create_dataset(name, data=np.atleast_1d(values), **{"chunks": True, **options[int(rng.integers(3))]})


def _yaml(rng, original, _):
    lines = original.decode(errors="replace").split("\n")
    at, how, word = int(rng.integers(len(lines))), int(rng.integers(6)), str(rng.choice(YAML))
    if how == 0:
        lines[at] = lines[at].partition(":")[0] + ": " + word
    elif how == 1:
        lines.insert(at, word)
    elif how == 2:
        lines.insert(at, lines[int(rng.integers(len(lines)))])
    elif how == 3:
        lines[at] = " " * int(rng.integers(1, 200)) + lines[at]
    elif how == 4:
        value = str(rng.choice(["-1", "1e30", ".inf", "0", "1e-300", "true", "~", "''"]))
        lines[at] = lines[at].replace("value: ", f"value: {value} #")
    else:
        del lines[at]
    return "\n".join(lines).encode("utf-8", "surrogatepass")


def _npy(rng, original, _):
    shape = [int(rng.choice([0, 1, 2, 3, 2**20, 2**40, -1, 2**62])) for _ in range(int(rng.integers(0, 5)))]
    kind = str(rng.choice(["<f4", "|O", "<f8", "<M8[s]", "|S5", "<U9", "<c16", "<i8", "|V4", "|u1"]))
    header = f"{{'descr': {kind!r}, 'fortran_order': {bool(rng.integers(2))}, 'shape': {tuple(shape)}, }}"
    if rng.random() < 0.3:
        header = str(rng.choice(["{" * 900, "__import__('os').system('touch HIT')", "(" * 9000, "{'shape': 9**9**9}", "{}", "1" * 9000]))
    text = header.encode().ljust(int(rng.choice([118, 200, 9000]))) + b"\n"
    major = int(rng.choice([1, 1, 2, 3, 9]))
    length = len(text).to_bytes(2 if major == 1 else 4, "little")
    return b"\x93NUMPY" + bytes([major, 0]) + length + text + original[128:]


def _zip(rng, original, folder):
    """An archive with a member damaged, packed, renamed, doubled or replaced, its checksums right."""
    try:
        with zipfile.ZipFile(io.BytesIO(original)) as archive:
            members = [(item.filename, archive.read(item)) for item in archive.infolist()]
    except (zipfile.BadZipFile, NotImplementedError, RuntimeError, OSError, ValueError, EOFError, zipfile.zlib.error):
        return _pickled(rng, original, folder) if original[:1] == b"\x80" else _bytes(rng, original)
    if not members:
        return _bytes(rng, original)
    at, how = int(rng.integers(len(members))), int(rng.integers(7))
    name, content = members[at]
    if how < 2:
        if name.endswith(".npy"):
            content = _npy(rng, content, folder)
        elif name.endswith(".pkl"):
            content = _pickled(rng, content, folder)
        members[at] = name, _bytes(rng, content) if how else content
    elif how == 2:
        members[at] = str(rng.choice(["../../HIT", "/tmp/HIT", "", "a" * 300, "values.npy", name + "\x01"])), content
    elif how == 3:
        members.append((name, _bytes(rng, content)))
    elif how == 4:
        del members[at]
    elif how == 5:
        members[at] = name, content[:128] + bytes(int(rng.choice([1, 1 << 22, 1 << 26])))
    pack = int(rng.choice([zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED, zipfile.ZIP_BZIP2, zipfile.ZIP_LZMA], p=[0.6, 0.2, 0.1, 0.1]))
    result = io.BytesIO()
    with zipfile.ZipFile(result, "w", pack) as archive:
        for name, content in members:
            try:
                archive.writestr(zipfile.ZipInfo(name or "x"), content, pack)
            except (ValueError, UserWarning):
                continue
    return result.getvalue()


class _Evil:
    def __init__(self, call):
        self._call = call

    def __reduce__(self):
        return self._call


def _pickled(rng, original, folder):
    """A pickle that would run something, allocate something or never end; or one with a wrong operation in it."""
    mark = str(folder / "HIT")
    calls = [
        (eval, (f"open({mark!r}, 'w')",)), (exec, (f"open({mark!r}, 'w')",)), (shutil.rmtree, (mark,)), (open, (mark, "w")),
        (bytearray, (1 << 40,)), (getattr, (str, "format")), (set, ([],)),
    ]  # fmt: skip
    if rng.random() < 0.4:
        return pickle.dumps({"weight_ih_l0": _Evil(calls[int(rng.integers(len(calls)))])}, protocol=2)
    content = bytearray(original)
    operations = [op.code.encode("latin-1") for op in pickletools.opcodes]
    at = int(rng.integers(len(content))) if content else 0
    content[at : at + 1] = operations[int(rng.integers(len(operations)))]
    return bytes(content)


