"""Damaged and hostile inputs for the command line: it must refuse each with one line, soon, in bounded memory.

    python tests/fuzz.py --count 2000              # every kind
    python tests/fuzz.py --kind npz --first 17     # one input again, kept as tests/fuzz.py says

Workers are processes of their own. Each calls the program for one input after the other and says what came of it;
a worker that is late or dead is a finding too, and another goes on after the input that did it.
"""

import argparse
import collections
import contextlib
import io
import json
import os
import resource
import select
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path

KINDS = ("model", "data", "trace", "estimate", "machine", "npy", "npz", "checkpoint", "onnx")
SECONDS = 10  # of processor time that an input may take
PATIENCE = 120  # seconds on the clock, since the machine may have other work
MEMORY = 1 << 30  # bytes that an input may add to what the program takes
FINE = ("accepted", "refused")
ROOT = Path(__file__).resolve().parent.parent


def work(kind, seed, first, last, folder):
    """Run the program on inputs `first` to `last` - 1, and print a line of JSON before and after each."""
    sys.path[:0] = [str(ROOT), str(ROOT / "tests")]
    import fuzz_inputs

    from fxp.cli import _run

    report = os.fdopen(os.dup(1), "w", buffering=1)
    inputs = fuzz_inputs.Inputs(folder, [kind])
    os.chdir(folder)
    known = set(os.listdir(folder))

    def call(suffix, content, command):
        """Exit code, standard output and error of a command on an input, and the input's name."""
        file = folder / f"input{suffix}"
        file.write_bytes(content)
        words = [str(file) if word == "FILE" else str(word) for word in command]
        out, err = io.StringIO(), io.StringIO()
        with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
            try:
                code = _run(words)
            except BaseException as error:
                code = f"raised {type(error).__name__}"
        file.unlink()
        (folder / "OUT").unlink(missing_ok=True)
        return code, out.getvalue(), err.getvalue(), str(file)

    commands = inputs.commands[kind]
    for command in commands:
        # Compiles what the command needs, which no input is charged with.
        said = call(*inputs.files[kind][0], command)
        assert said[0] == 0, f"a valid input was refused: {said}"
    for number in range(first, last):
        suffix, content = fuzz_inputs.variant(inputs, kind, seed, number)
        print(json.dumps({"number": number}), file=report)
        _reset_peak()
        before, start = _peak(), _spent()
        said = call(suffix, content, commands[number % len(commands)])
        grown, seconds = _peak() - before, _spent() - start
        stray = sorted(set(os.listdir(folder)) - known)
        result = {"number": number, "outcome": _judge(*said, grown, seconds, stray), "seconds": seconds, "grown": grown}
        print(json.dumps({**result, "said": said[2][:300]}), file=report)


def _judge(code, out, err, name, grown, seconds, stray):
    if stray:
        return f"left {stray}"
    if grown > MEMORY:
        return f"took {grown >> 20} MiB"
    if seconds > SECONDS:
        return f"took {seconds:.0f} s"
    if code == 0:
        # An input may be valid and yet deserve a word: that its 8 bits are lossy, for one.
        silent = all(line.startswith("warning: ") for line in err.splitlines())
        return "accepted" if silent else "spoke while it accepted"
    if code != 2 or out:
        return f"exit code {code}"
    if not err.startswith("fxp: ") or err.count("\n") != 1 or "Traceback" in err or "out of memory" in err:
        return "refused without a clear line"
    return "refused" if name in err else "refused without the name of the file"


def _spent():
    """Processor time of this process and of its children, in seconds."""
    times = os.times()
    return times.user + times.system + times.children_user + times.children_system


def _peak():
    with open("/proc/self/status") as status:
        return next(int(line.split()[1]) << 10 for line in status if line.startswith("VmHWM"))


def _reset_peak():
    with open("/proc/self/clear_refs", "w") as file:
        file.write("5")


class Worker:
    """A process that works on some inputs of a kind."""

    def __init__(self, kind, seed, first, last):
        self.folder = Path(tempfile.mkdtemp(prefix="fuzz-"))
        command = [sys.executable, __file__, "--work", kind, str(seed), str(first), str(last), str(self.folder)]
        environment = {**os.environ, "OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"}
        self._errors = tempfile.TemporaryFile()  # noqa: SIM115 - closed by `close`
        self._process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=self._errors, env=environment, preexec_fn=_limit)
        self.number = first
        self._lines = b""

    def results(self):
        """What came of each input, until the worker is done, dead or late."""
        patience = 2 * PATIENCE  # to start
        while True:
            line = self._line(patience)
            if line is None:
                yield {"number": self.number, "outcome": "took too long"}
                return
            if not line:
                code = self._process.wait()
                if code:
                    self._errors.seek(0)
                    said = self._errors.read().decode(errors="replace")[-2000:]
                    yield {"number": self.number, "outcome": f"ended the program with {code}", "said": said}
                return
            result = json.loads(line)
            self.number, patience = result["number"], PATIENCE
            if "outcome" in result:
                yield result

    def _line(self, patience):
        deadline = time.monotonic() + patience
        while b"\n" not in self._lines:
            ready = select.select([self._process.stdout], [], [], max(0, deadline - time.monotonic()))[0]
            if not ready:
                return None
            piece = os.read(self._process.stdout.fileno(), 1 << 16)
            if not piece:
                return b""
            self._lines += piece
        line, _, self._lines = self._lines.partition(b"\n")
        return line

    def close(self):
        self._process.kill()
        self._process.wait()
        self._process.stdout.close()
        self._errors.close()
        shutil.rmtree(self.folder, ignore_errors=True)


def _limit():
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    # No single input comes near it, so it only keeps the machine alive.
    resource.setrlimit(resource.RLIMIT_AS, (24 << 30, 24 << 30))


def fuzz(kind, seed, first, last):
    """All results of a kind."""
    while first < last:
        worker = Worker(kind, seed, first, last)
        try:
            yield from worker.results()
            first = worker.number + 1
        finally:
            worker.close()


def main():
    parser = argparse.ArgumentParser(description="Damaged and hostile inputs for the command line.")
    parser.add_argument("--kind", choices=KINDS, action="append")
    parser.add_argument("--count", type=int, default=1)
    parser.add_argument("--first", type=int, default=0)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--work", nargs=5, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.work:
        kind, *numbers, folder = options.work
        work(kind, *map(int, numbers), Path(folder))
        return
    findings = 0
    for kind in options.kind or KINDS:
        counts, slowest, largest = collections.Counter(), 0.0, 0
        for result in fuzz(kind, options.seed, options.first, options.first + options.count):
            counts[result["outcome"] if result["outcome"] in FINE else "findings"] += 1
            slowest, largest = max(slowest, result.get("seconds", 0)), max(largest, result.get("grown", 0))
            if result["outcome"] not in FINE:
                print(f"{kind} {result['number']}: {result['outcome']}: {result.get('said', '').strip()}", flush=True)
        findings += counts["findings"]
        print(f"{kind}: {counts['refused']} refused, {counts['accepted']} accepted, {counts['findings']} findings; "
              f"at most {slowest:.2f} s and {largest >> 20} MiB", flush=True)  # fmt: skip
    sys.exit(findings > 0)


if __name__ == "__main__":
    main()
