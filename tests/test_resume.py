"""Work that was killed goes on with the same bits; interrupts leave nothing half-written."""

import json
import multiprocessing
import os
import signal
import struct
import subprocess
import sys
import time
from pathlib import Path

import h5py
import numpy as np
import pytest
import traces_samples

import accel
import fxp
import traces
from fxp import evaluation, journal
from fxp.cli import main, output
from fxp.journal import Journal
from traces import aside, store

FXP = Path(sys.executable).with_name("fxp")
LENGTHS = (9, 4, 12, 1, 7, 7, 30, 2, 5, 11)
pytestmark = pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")


@pytest.fixture(scope="module")
def made(make_network, tmp_path_factory):
    """Models (forward, bidirectional, without head) and ragged data."""
    folder = tmp_path_factory.mktemp("resume")
    rng = np.random.default_rng(5)
    x = [rng.normal(size=(n, 3)).astype(np.float32) for n in LENGTHS]
    traces.Data.of(x, [rng.integers(0, 3, n) for n in LENGTHS], ids=range(7, 17)).write(folder / "data.h5")
    fxp.save(make_network((6, 5), classes=3, metric="cross_entropy"), folder / "model.h5")
    fxp.save(make_network((6,), directions=2, profile="fixed"), folder / "both.h5")
    traces.Data.of(x).write(folder / "plain.h5")
    fxp.emulate(fxp.load(folder / "model.h5"), x, accel.Random(0.5), trace=folder / "plan.h5", sequence_ids=list(range(7, 17)))
    return folder


@pytest.fixture
def here(made, tmp_path, monkeypatch):
    """A folder of links to the files, and nothing else."""
    for file in made.iterdir():
        (tmp_path / file.name).symlink_to(file)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(journal, "SECONDS", 0.0)
    return tmp_path


def end(*arguments):
    """Exit code of a command in this process."""
    with pytest.raises(SystemExit) as code:
        main([str(argument) for argument in arguments])
    return code.value.code


def answer(capfd, *arguments):
    assert end(*arguments, "--json") == 0
    captured = capfd.readouterr()
    return json.loads(captured.out), captured.err


def apart(function):
    """Exit code of a function in a process of its own, negative for a signal."""
    child = multiprocessing.get_context("fork").Process(target=function)
    child.start()
    child.join(60)
    assert child.exitcode is not None
    return child.exitcode


def killed_at(block, share, *arguments):
    """Run a command that kills itself when it has written a share of a block of its partial work."""

    def function():
        blocks, append = 0, Journal._append

        def torn(self, content):
            nonlocal blocks
            blocks += 1
            append(self, content[: int(len(content) * share)] if blocks == block else content)
            if blocks == block:
                os.kill(os.getpid(), signal.SIGKILL)

        Journal._append = torn
        main([*map(str, arguments), "--json"])

    assert apart(function) == -signal.SIGKILL


def everything(path):
    with h5py.File(path) as file:
        found = {"": dict(file.attrs)}
        file.visititems(lambda name, item: found.update({name: item[()] if isinstance(item, h5py.Dataset) else dict(item.attrs)}))
        return found


def same(one, other):
    one, other = everything(one), everything(other)
    return one.keys() == other.keys() and all(np.array_equal(one[k], other[k]) if k else one[k] == other[k] for k in one)


RUN = ["run", "model.h5", "data.h5", "--engine", "portable"]
WAYS = {
    "peak": [*RUN, "-C", "peak"],
    "random, states": [*RUN, "-C", "random:low_share=0.4,seed=3", "--record", "cell", "--record", "accumulators", "--record", "hidden"],
    "threads": [*RUN, "-C", "delta:threshold=0.2", "--threads", "3"],
    "both directions": ["run", "both.h5", "plain.h5", "--engine", "portable", "--record", "cell"],
    "schedule": [*RUN, "-C", "schedule:plan=plan.h5"],
}  # fmt: skip


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("moments", [[(1, 0.5)], [(3, 0.4), (2, 1.0)], [(6, 0.99), (1, 1.0), (3, 0.0)]])
def test_a_killed_run_goes_on_with_the_same_bits(here, capfd, way, moments):
    expected, _ = answer(capfd, *WAYS[way], "-t", "whole.h5")
    for block, share in moments:
        killed_at(block, share, *WAYS[way], "-t", "out.h5", "--resume")
        assert not Path("out.h5").exists() and Path("out.h5.partial").exists()
    # Whatever the process was writing into remains after a kill; it never is the output.
    for left in here.glob(".out.h5.*.tmp"):
        left.unlink()
    resumed, _ = answer(capfd, *WAYS[way], "-t", "out.h5", "--resume")
    assert resumed == {**expected, "trace": "out.h5"} and same("whole.h5", "out.h5")
    assert not Path("out.h5.partial").exists()


def test_only_what_is_missing_is_done_again(here, capfd, monkeypatch):
    killed_at(5, 1.0, *WAYS["peak"], "-t", "out.h5", "--resume")
    begun = []
    stream = evaluation.stream
    monkeypatch.setattr(evaluation, "stream", lambda *given: (begun.append(given[-1]), stream(*given)))
    answer(capfd, *WAYS["peak"], "-t", "out.h5", "--resume", "--threads", "2", "--engine", "reference")
    assert len(begun) == 1 and 2 <= len(begun[0]) < len(LENGTHS)


@pytest.mark.parametrize("moments", [[(2, 1.0)], [(9, 0.5), (14, 1.0)]])
def test_a_killed_comparison_goes_on_with_the_same_bits(here, capfd, moments):
    command = ["compare", "model.h5", "data.h5", "--engine", "portable"]
    expected, _ = answer(capfd, *command)
    for block, share in moments:
        killed_at(block, share, *command, "--resume", "c.partial")
    resumed, _ = answer(capfd, *command, "--resume", "c.partial")
    assert resumed == expected and not Path("c.partial").exists()


def test_partial_work_of_another_run_is_refused_and_kept(here, capfd):
    killed_at(3, 1.0, *WAYS["peak"], "-t", "out.h5", "--resume")
    before = Path("out.h5.partial").read_bytes()
    for arguments, named in [
        ([*RUN, "-C", "peak:beta=0.2"], "controller"), ([*RUN, "--record", "cell"], "record"),
        (["run", "both.h5", "data.h5"], "model"), (["run", "model.h5", "plain.h5"], "data"),
        ([*RUN, "--metric", "accuracy"], "metric"),
    ]:  # fmt: skip
        assert end(*arguments, "-t", "out.h5", "--resume") == 2
        error = capfd.readouterr().err
        assert "belongs to other work" in error and f"({named} is" in error and error.count("\n") == 1
        assert Path("out.h5.partial").read_bytes() == before and not Path("out.h5").exists()


def test_damaged_partial_work(here, capfd):
    expected, _ = answer(capfd, *WAYS["peak"], "-t", "whole.h5")
    killed_at(6, 1.0, *WAYS["peak"], "-t", "out.h5", "--resume")
    good = Path("out.h5.partial").read_bytes()
    rng = np.random.default_rng(0)
    for place in [5, *rng.integers(len(journal.MAGIC), len(good), 12)]:
        for leftover in here.glob(".out.h5.*.tmp"):
            leftover.unlink()
        content = bytearray(good)
        content[place] ^= 1 << rng.integers(8)
        Path("out.h5.partial").write_bytes(content)
        if place < len(journal.MAGIC):
            assert end(*WAYS["peak"], "-t", "out.h5", "--resume") == 2
            assert "is not a file of partial work" in capfd.readouterr().err
            continue
        resumed, said = answer(capfd, *WAYS["peak"], "-t", "out.h5", "--resume")
        assert "out.h5.partial: damaged" in said and "done again" in said and said.count("\n") == 1
        assert resumed == {**expected, "trace": "out.h5"} and same("whole.h5", "out.h5")


def test_a_block_that_lies(here, capfd):
    """A well-formed block may claim what it does not hold, or a sequence that is not there."""
    killed_at(4, 1.0, *WAYS["peak"], "-t", "out.h5", "--resume")
    good = Path("out.h5.partial").read_bytes()
    size, _ = struct.unpack_from("<II", good, len(journal.MAGIC))
    begin = good[: len(journal.MAGIC) + 8 + size]
    about = json.dumps({"controller": accel.controllers.identity(accel.Peak()), "scored": True}, sort_keys=True)
    for rows, done in [([], [[99, 2]]), ([], [[0, 2**40]]), ([[0, 0, 0, 2**40]], [[0, 2]]), ([[9, 0, 0, 1]], [[0, 2]])]:
        block = journal._packed({"part": about, "attempt": 1, "rows": rows, "done": done}, [np.zeros(9)])
        Path("out.h5.partial").write_bytes(begin + block)
        assert end(*WAYS["peak"], "-t", "out.h5", "--resume") == 2
        assert "does not hold what it should" in capfd.readouterr().err and not Path("out.h5").exists()


def test_partial_work_in_use(here, capfd):
    killed_at(3, 1.0, *WAYS["peak"], "-t", "out.h5", "--resume")
    with Path("out.h5.partial").open() as file:
        import fcntl

        fcntl.flock(file, fcntl.LOCK_EX)
        assert end(*WAYS["peak"], "-t", "out.h5", "--resume") == 2
        assert "another process is working on it" in capfd.readouterr().err


def test_resume_needs_an_output(here, capfd):
    assert end(*RUN, "--resume") == 2
    assert "--resume needs --trace" in capfd.readouterr().err
    assert end(*RUN, "-t", "out.h5", "--resume", "--threads", "0") == 2
    assert end("compare", "model.h5", "data.h5", "--resume", "none/c.partial") == 2
    assert "none/c.partial: cannot be written" in capfd.readouterr().err


def test_large_pieces_are_kept_in_bounded_blocks(make_network, tmp_path):
    network = make_network((64,))
    offsets = np.array([0, 5000])
    rows = np.random.default_rng(0).integers(0, 9, (5000, 2, 256)).astype(np.int32)
    with Journal(tmp_path / "p", {}) as kept:
        part = kept.part({}, network, offsets, ("accumulators",))
        part.write(0, 0, 0, np.zeros((5000, 8), np.uint8), accumulators=rows)
        part.count(0, 0, 0, low=3, overflow=4)
        part.finish(0, np.array([0.5, 2.0]))
    found = np.zeros_like(rows)

    class Sink:
        def write(self, layer, direction, row, low, accumulators):
            found[row : row + len(low)] = accumulators

        def count(self, layer, direction, sequence, low, overflow):
            assert (layer, direction, sequence, low, overflow) == (0, 0, 0, 3, 4)

    with Journal(tmp_path / "p", {}) as kept:
        assert len(kept._blocks) > 5
        part = kept.part({}, network, offsets, ("accumulators",))
        assert {n: list(v) for n, v in part.done.items()} == {0: [0.5, 2.0]}
        part.replay([Sink()])
    assert np.array_equal(found, rows)


# Interrupts


def interrupted_by(number, place, *arguments):
    """Run a command that gets a signal when it comes to a place in the code, as often as it comes there."""

    def function():
        owner, name = place
        original = getattr(owner, name)

        def signalled(*given, **named):
            os.kill(os.getpid(), number)
            return original(*given, **named)

        setattr(owner, name, signalled)
        main([*map(str, arguments), "--json"])

    return apart(function)


PLACES = {
    "reading the model": (fxp.network, "load"), "writing the file": (aside.Aside, "write"), "an emulated piece": (evaluation, "stream"),
    "closing": (aside.Aside, "close"), "moving": (os, "replace"), "giving up": (store.Output, "discard"),
    "beginning the file": (aside.Aside, "__init__"),
}  # fmt: skip


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
@pytest.mark.parametrize("old", [b"precious", None])
@pytest.mark.parametrize("place", PLACES)
def test_an_interrupt_anywhere_leaves_no_half_file(here, capfd, place, number, old):
    if old is not None:
        Path("out.h5").write_bytes(old)
    names = set(os.listdir())
    code = interrupted_by(number, PLACES[place], *WAYS["threads"], "-t", "out.h5")
    said = capfd.readouterr()
    if place != "giving up":
        assert code == 128 + number and said.out == "" and said.err == "fxp: interrupted; nothing half-written was left\n"
    assert set(os.listdir()) - {"out.h5"} == names - {"out.h5"}
    if Path("out.h5").exists() and Path("out.h5").read_bytes() != old:
        traces.open("out.h5", "trace").close()
    elif place in ("moving", "giving up"):
        pytest.fail("the file was complete")


@pytest.mark.parametrize("delay", [0.001, 0.01, 0.03, 0.06, 0.1, 0.15, 0.2, 0.3])
def test_an_interrupt_at_any_time(here, capfd, delay):
    names = set(os.listdir())

    def function():
        signal.signal(signal.SIGALRM, lambda *_: os.kill(os.getpid(), signal.SIGINT))
        try:
            signal.setitimer(signal.ITIMER_REAL, delay)
            main([*WAYS["random, states"], "-t", "out.h5", "--json"])
        except KeyboardInterrupt:
            os._exit(130)  # before the program had begun

    code = apart(function)
    assert code in (0, 130)
    assert set(os.listdir()) - {"out.h5"} == names
    if code == 0 or Path("out.h5").exists():
        traces.open("out.h5", "trace").close()


def test_an_interrupted_run_that_keeps_its_work_says_so(here, capfd):
    code = interrupted_by(signal.SIGINT, (journal.Part, "finish"), *WAYS["peak"], "-t", "out.h5", "--resume")
    said = capfd.readouterr().err
    assert code == 130 and "kept in out.h5.partial" in said and not Path("out.h5").exists()
    assert end(*WAYS["peak"], "-t", "out.h5", "--resume") == 0


def test_a_process_that_is_terminated(here):
    """From outside, as soon as it writes."""
    names = set(os.listdir())
    long = np.random.default_rng(0).normal(size=(40, 3000, 3)).astype(np.float32)
    np.save("long.npy", long)
    command = [str(FXP), "run", "both.h5", "long.npy", "--engine", "portable", "-t", "out.h5"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        deadline = time.monotonic() + 100
        while not list(here.glob(".out.h5.*.tmp")) and process.poll() is None and time.monotonic() < deadline:
            time.sleep(0.005)
        process.terminate()
        out, err = process.communicate(timeout=60)
    assert (process.returncode, out, err) == (143, "", "fxp: interrupted; nothing half-written was left\n")
    assert set(os.listdir()) == names | {"long.npy"}


# Writing


def test_a_full_disk(here, capfd):
    Path("out.h5").write_bytes(b"precious")
    more: list[str] = []

    def function():
        import resource

        resource.setrlimit(resource.RLIMIT_FSIZE, (3000, 3000))
        main([*WAYS["random, states"], "-t", "out.h5", *more])

    for extra in ([], ["--resume"]):
        more[:] = extra
        names = set(os.listdir())
        assert apart(function) == 2
        said = capfd.readouterr()
        assert said.out == "" and said.err.count("\n") == 1 and "cannot be written" in said.err
        assert Path("out.h5").read_bytes() == b"precious"
        assert set(os.listdir()) - {"out.h5.partial"} == names
    assert end(*WAYS["random, states"], "-t", "out.h5", "--resume") == 0


def test_two_processes_that_write_one_path(here):
    def function():
        for seed in range(12):
            traces_samples.trace("t.h5", lengths=(50, 20 + os.getpid() % 2 + seed % 3))

    children = [multiprocessing.get_context("fork").Process(target=function) for _ in range(2)]
    for child in children:
        child.start()
    while any(child.is_alive() for child in children):
        if Path("t.h5").exists():
            with traces.open("t.h5", "trace") as trace:
                trace.digest()
    assert [child.exitcode for child in children] == [0, 0]
    assert not list(here.glob(".t.h5*"))


# Progress


def test_progress_in_a_pipe(here, capfd, monkeypatch):
    assert end(*RUN) == 0 and capfd.readouterr().err == ""
    monkeypatch.setattr(output, "LINES", 0.0)
    result, said = answer(capfd, *RUN, "--progress")
    assert result["sequences"] == len(LENGTHS)
    lines = said.splitlines()
    assert lines and all(line.startswith("fxp: emulating: ") and "steps/s" in line and line.endswith(" left") for line in lines)
    assert "100%" in lines[-1] and "0:00 left" in lines[-1]
