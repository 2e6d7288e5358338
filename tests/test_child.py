"""The check of a file in a child process: what it lets pass, and what it reports of a child that ends badly."""

import ctypes
import os
import signal
import sys
import threading
import time
import zipfile
import zlib
from pathlib import Path

import h5py
import pytest
import traces_samples as samples

import traces
from fxp import datafile
from traces import child

GOLDEN = Path(__file__).resolve().parent / "golden"


def crash(path):
    ctypes.string_at(0)


def abort(path):
    os.abort()


def spin(path):
    while True:
        pass


def sleep(path):
    time.sleep(60)


def swallow(path):
    with traces.store.reading(path):
        bytearray(3 << 30)


def fail(path):
    raise ZeroDivisionError


def verdict(reader):
    with pytest.raises(traces.FormatError) as caught:
        child.Check(GOLDEN / "model.h5", reader=f"test_child:{reader}").wait()
    return str(caught.value)


@pytest.mark.parametrize("forked", [True, False])
@pytest.mark.parametrize("name", ["model", "data", "trace", "estimate", "tokens", "projected"])
def test_good_files_pass(monkeypatch, name, forked):
    monkeypatch.setattr(child, "_can_fork", lambda: forked)
    child.Check(GOLDEN / f"{name}.h5").wait()


@pytest.mark.parametrize("forked", [True, False])
def test_a_bad_file_is_refused_with_the_message_of_opening(tmp_path, monkeypatch, forked):
    monkeypatch.setattr(child, "_can_fork", lambda: forked)
    path = tmp_path / "x.h5"
    path.write_bytes((GOLDEN / "model.h5").read_bytes()[:5000])
    with pytest.raises(traces.FormatError) as direct:
        traces.open(path)
    with pytest.raises(traces.FormatError) as checked:
        traces.open(path, checked=True)
    assert str(direct.value) == str(checked.value)


@pytest.mark.parametrize("forked", [True, False])
@pytest.mark.parametrize(
    ("reader", "match"),
    [("crash", "SIGSEGV"), ("abort", "SIGABRT"), ("swallow", "damaged: MemoryError"), ("fail", "exit code 1")],
)
def test_a_child_that_ends_badly(monkeypatch, capfd, reader, match, forked):
    monkeypatch.setattr(child, "_can_fork", lambda: forked)
    monkeypatch.setattr(sys, "path", [str(Path(__file__).parent), *sys.path])
    assert match in verdict(reader)
    assert capfd.readouterr() == ("", "")


def test_a_child_that_loops(monkeypatch):
    monkeypatch.setattr(child, "SECONDS", 1)
    assert "takes over 1 s" in verdict("spin")


def test_a_child_that_waits(monkeypatch):
    monkeypatch.setattr(child, "PATIENCE", 1)
    with pytest.raises(traces.InputError, match="could not be checked in 1 s: the machine is overloaded") as caught:
        child.Check(GOLDEN / "model.h5", reader="test_child:sleep").wait()
    assert not isinstance(caught.value, traces.FormatError)


def test_an_unwanted_child_is_ended():
    check = child.Check(GOLDEN / "model.h5", reader="test_child:sleep")
    pid = check._pid
    del check
    with pytest.raises(ChildProcessError):
        os.waitpid(pid, 0)


def test_a_process_of_several_threads_is_not_forked():
    done = threading.Event()
    thread = threading.Thread(target=done.wait)
    assert child._can_fork() == (sys.platform == "linux")
    thread.start()
    try:
        assert not child._can_fork()
    finally:
        done.set()
        thread.join()


def test_signals_of_the_parent_stay_with_it(monkeypatch):
    """A child of a program that handles signals is ended by them."""
    previous = signal.signal(signal.SIGTERM, lambda *_: pytest.fail("the child ran the parent's handler"))
    try:
        check = child.Check(GOLDEN / "model.h5", reader="test_child:sleep")
        time.sleep(0.3)
        os.kill(check._pid, signal.SIGTERM)
        with pytest.raises(traces.FormatError, match="SIGTERM"):
            check.wait()
    finally:
        signal.signal(signal.SIGTERM, previous)


def test_what_is_no_file(tmp_path):
    for path, match in [(tmp_path / "none", "No such file"), (tmp_path, "regular"), ("a\0b", "cannot be read")]:
        with pytest.raises(traces.InputError, match=match):
            child.Check(path)


def test_memory_stays_within_reason(tmp_path):
    """A small file may not have a large one read into memory, though deflate could pack it."""
    path = tmp_path / "x.h5"
    samples.estimate().write(path)
    with h5py.File(path, "r+") as file:
        del file["layer_cycles"]
        rows = 1 << 14
        cycles = file.create_dataset("layer_cycles", (1 << 22, 16), "<i8", chunks=(rows, 16), compression=9)
        packed = zlib.compress(bytes(rows * 16 * 8), 9)
        for row in range(0, 1 << 22, rows):
            cycles.id.write_direct_chunk((row, 0), packed)
    assert path.stat().st_size < 1 << 20
    with pytest.raises(traces.FormatError, match="layer_cycles declares 536870912 bytes, out of proportion"):
        traces.open(path)


def numpy_header(text):
    return b"\x93NUMPY\x01\x00" + len(text).to_bytes(2, "little") + text


@pytest.mark.parametrize(
    ("suffix", "content", "match"),
    [
        # NumPy would parse the header for many seconds.
        (".npy", numpy_header(b"(" * 9000), "is large"),
        (".npy", numpy_header(b"{'descr': '<f4', 'fortran_order': False, 'shape': (1099511627776,), }\n"), "more than the file"),
        (".npy", numpy_header(b"{'descr': '|O', 'fortran_order': False, 'shape': (1,), }\n") + b"\x80\x04N.", "Python objects"),
        (".npz", {"values.npy": (bytes(1 << 20), zipfile.ZIP_BZIP2)}, "only deflate is read"),
        (".npz", {"values.npy": (bytes(300 << 20), zipfile.ZIP_DEFLATED)}, "64 times its size"),
        (".npz", {"../x.npy": (b"", zipfile.ZIP_STORED)}, "no array `values`"),
    ],
)  # fmt: skip
def test_numpy_files_that_would_take_time_or_memory(tmp_path, suffix, content, match):
    path = tmp_path / f"x{suffix}"
    if isinstance(content, bytes):
        path.write_bytes(content)
    else:
        with zipfile.ZipFile(path, "w") as archive:
            for name, (member, pack) in content.items():
                archive.writestr(name, member, pack)
    start = time.process_time()
    with pytest.raises(traces.InputError, match=match):
        datafile.read(path)
    assert time.process_time() - start < 2 and [entry.name for entry in tmp_path.iterdir()] == [path.name]
