"""Estimates: what holds whatever the constants are, and where a network does not fit."""

import json
import resource
import subprocess
import sys

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import accel
import traces
from accel import control, energy
from accel.control import Control
from accel.estimates import estimate, measure
from accel.machine import Machine, machines
from accel.sensitivities import sensitivity
from accel.workload import Shape, Workload, constant_rows, synthetic
from traces import InputError

DYN, SIP = Machine.load("epur-dyn"), Machine.load("epur-sip")
STACK = [Shape(40, 64, 64, 2), Shape(128, 100, 24, 2, True)]


def write_trace(path, shapes, lengths, masks, **attributes):
    """A trace file whose plan is masks[layer][direction] (bool [total, H])."""
    sizes = [(s.input_size, s.hidden_size, s.output_size, s.directions, s.projected) for s in shapes]
    about = {"controller": {"name": "test"}, "high": 8, "low": 4, **attributes}
    with traces.TraceWriter(path, lengths=lengths, layers=sizes, **about) as writer:
        for layer, shape in enumerate(shapes):
            for side in range(shape.directions):
                writer.write(layer, side, 0, low=masks[layer][side])
                for number, (start, stop) in enumerate(
                    zip(np.cumsum(lengths) - lengths, np.cumsum(lengths), strict=True)
                ):
                    low = int(masks[layer][side][start:stop].sum())
                    writer.count(layer, side, number, low=low, overflow=0)
    return path


@pytest.fixture(scope="module")
def trace(tmp_path_factory):
    generator = np.random.default_rng(0)
    lengths = np.array([20, 3, 31])
    masks = [generator.random((s.directions, 54, s.hidden_size)) < 0.6 for s in STACK]
    return write_trace(tmp_path_factory.mktemp("trace") / "run.h5", STACK, lengths, masks)


@st.composite
def works(draw):
    layers, inputs = [], draw(st.integers(1, 300))
    directions = draw(st.sampled_from([1, 2]))
    for _ in range(draw(st.integers(1, 3))):
        hidden = draw(st.integers(1, 60))
        projected = draw(st.booleans())
        outputs = draw(st.integers(1, 40)) if projected else hidden
        layers.append(Shape(inputs, hidden, outputs, directions, projected, peepholes=draw(st.booleans())))
        inputs = outputs * directions
    lengths = draw(st.lists(st.integers(1, 20), min_size=1, max_size=4))
    return synthetic(layers, lengths, draw(st.floats(0, 1)), seed=draw(st.integers(0, 100)))


@settings(max_examples=25, deadline=None, derandomize=True)
@given(works(), st.sampled_from(machines()))
def test_energy_is_the_sum_of_its_parts(work, name):
    machine = Machine.load(name)
    cost = measure(work, machine)
    parts = cost.components.values()
    assert cost.energy_pj == pytest.approx(sum(p["dynamic_pj"] + p["static_pj"] for p in parts), rel=1e-12)
    assert cost.area_mm2 == pytest.approx(sum(p["area_mm2"] for p in parts), rel=1e-12)
    assert all(p[k] >= 0 for p in parts for k in ("dynamic_pj", "static_pj", "area_mm2"))
    assert cost.compute_cycles == sum(map(sum, cost.layer_cycles))
    assert cost.time_s == pytest.approx(cost.compute_cycles / machine.clock_hz + cost.wait_s, rel=1e-12)
    assert 0 <= cost.stall_cycles < cost.compute_cycles


@settings(max_examples=25, deadline=None, derandomize=True)
@given(works())
def test_events_follow_from_topology_and_plan(work):
    cost = measure(work, DYN)
    steps, weights, products, low_products, loads = work.steps, 0, 0, 0, 0
    elements = 0
    for number, shape in enumerate(work.layers):
        inputs = shape.input_size + shape.output_size
        masks = [
            np.unpackbits(work.rows(number, d, 0, steps), axis=1, count=shape.hidden_size, bitorder="little")
            for d in range(shape.directions)
        ]
        low_products += 4 * inputs * int(sum(mask.sum() for mask in masks))
        products += 4 * inputs * shape.hidden_size * steps * shape.directions
        if shape.projected:
            products += shape.hidden_size * shape.output_size * steps * shape.directions
        elements += shape.hidden_size * steps * shape.directions
        weights = 4 * shape.hidden_size * inputs
        rows = 4 * shape.hidden_size + shape.output_size * shape.projected
        extra = shape.hidden_size * shape.output_size * shape.projected
        peepholes = 3 * shape.hidden_size * shape.peepholes
        loads += shape.directions * (weights + extra + -(-weights // 8) + 16 * rows + 4 * peepholes)
    dot = cost.components[energy.DOT]["events"]
    assert dot["multiply_4_bits"] == low_products
    assert dot["multiply_8_bits"] == products - low_products
    assert dot["staged_bit"] == 8 * (products - low_products) + 5 * low_products
    assert cost.components[energy.PRECISION]["events"]["decision"] == elements
    assert cost.components[energy.MULTIFUNCTION]["events"]["exponential"] == 5 * elements
    first, last = work.layers[0], work.layers[-1]
    moved = steps * (first.input_size * first.directions + last.output_size * last.directions)
    assert cost.dram_bytes == len(work.lengths) * loads + moved
    upper, lower = (cost.components[name]["events"]["read"] for name in (energy.UPPER, energy.LOWER))
    # The lower bank is read for the products at high precision alone; words hold 16 nibbles.
    assert 16 * lower >= products - low_products
    assert 16 * (upper - lower) >= low_products


def test_peepholes_cost_their_operations_and_the_time_they_take():
    plain, more = (
        measure(synthetic([Shape(20, 30, 30, 2, peepholes=peepholes)], [10, 4], 0.5), DYN) for peepholes in (False, True)
    )
    extra = 14 * 2 * 3 * 30
    first, second = (cost.components[energy.MULTIFUNCTION]["events"] for cost in (plain, more))
    for name, number in {"multiply": extra, "add": extra, "exponential": 0, "divide": 0}.items():
        assert second[name] == first[name] + number
    assert second["constants_read"] > first["constants_read"]
    assert more.dram_bytes == plain.dram_bytes + 2 * 2 * 4 * 3 * 30
    unit = DYN.multifunction
    # In every step but the last of a sequence the recurrent groups wait longer; at the end h itself comes later.
    assert more.compute_cycles - plain.compute_cycles == 14 * 2 * (2 * int(unit.add) + int(unit.multiply))


def test_without_low_decisions_the_dynamic_machine_is_never_cheaper():
    work = synthetic(STACK, [10, 30], 0.0)
    result = estimate(work)
    assert result.low_share == 0
    assert result.speedup <= 1
    assert result.energy_saving < 0
    for cycles, fixed in zip(result.layer_cycles, result.baseline_layer_cycles, strict=True):
        assert all(a >= b for a, b in zip(cycles, fixed, strict=True))


def test_twice_the_clock_halves_the_time_on_the_chip_alone():
    work = synthetic(STACK, [10, 30], 0.5)
    plain, fast = measure(work, DYN), measure(work, DYN.replaced({"clock": 1000}))
    assert fast.compute_cycles == plain.compute_cycles
    assert fast.time_s - fast.wait_s == pytest.approx((plain.time_s - plain.wait_s) / 2, rel=1e-12)
    assert fast.wait_s == plain.wait_s
    assert fast.dynamic_pj == plain.dynamic_pj
    assert fast.static_pj < plain.static_pj


def test_a_fixed_machine_ignores_the_plan():
    for name in ("epur", "epur-sip"):
        costs = [measure(synthetic(STACK, [12], share), Machine.load(name)).to_dict() for share in (0.0, 0.7)]
        assert costs[0] == costs[1]


def test_speedup_stays_below_its_bound_on_serial_units():
    for share in (0.2, 0.5, 0.8, 1.0):
        result = estimate(synthetic([Shape(128, 128, 128)], [50], share, seed=3))
        assert result.speedup < 1 / (1 - result.low_share / 2)


def test_a_projection_with_an_empty_plan_of_one_element():
    cost = measure(synthetic([Shape(1, 1, 1, 2, True)], [1], 1.0), DYN)
    assert cost.low_share == 1
    assert cost.energy_pj > 0


def test_trace_file_opened_trace_and_workload_agree(trace):
    by_path = estimate(trace)
    with traces.open(trace, kind="trace") as opened:
        assert estimate(opened).to_dict() == by_path.to_dict()
        assert by_path.low_share == opened.low_share
        assert by_path.trace_digest == opened.digest()
    assert estimate(trace, "epur-sip", None).low_share == by_path.low_share


def test_a_backward_direction_runs_from_the_end(tmp_path):
    # Low steps at the end of the sequence are the first ones of the backward direction: same work, mirrored.
    shape = Shape(128, 32, 32, 2)
    mask = np.random.default_rng(5).random((9, 32)) < 0.5
    path = write_trace(tmp_path / "t.h5", [shape], np.array([9]), [np.stack([mask, mask[::-1]])])
    cycles = estimate(path, baseline=None).layer_cycles[0]
    assert cycles[0] == cycles[1]


def test_public_attributes_and_record(trace, tmp_path):
    result = accel.estimate(trace, "epur-dyn", baseline="epur-sip")
    assert (result.machine, result.baseline) == ("epur-dyn", "epur-sip")
    assert result.speedup == result.baseline_time_s / result.time_s
    assert result.energy_saving == 1 - result.energy_pj / result.baseline_energy_pj
    assert result.area_overhead == result.area_mm2 / result.baseline_area_mm2 - 1
    record = json.loads(json.dumps(result.to_dict(), allow_nan=False))
    assert record["baseline_cost"]["machine"] == "epur-sip"
    result.write(tmp_path / "e.h5")
    back = traces.open(tmp_path / "e.h5", kind="estimate")
    assert back.record == record
    assert back.dynamic_pj.sum() + back.static_pj.sum() == pytest.approx(result.energy_pj, rel=1e-12)
    assert back.layer_cycles.tolist() == result.layer_cycles
    alone = accel.estimate(trace, baseline=None)
    assert alone.speedup is alone.energy_saving is alone.area_overhead is alone.baseline_cycles is None
    alone.write(tmp_path / "e.h5")
    assert traces.open(tmp_path / "e.h5", kind="estimate").baseline is None


def test_what_is_no_trace_is_refused(trace, tmp_path):
    with pytest.raises(InputError, match="expected a trace file"):
        estimate(object())
    with pytest.raises(InputError):
        estimate(tmp_path / "absent.h5")
    estimate(trace).write(tmp_path / "e.h5")
    with pytest.raises(InputError):
        estimate(tmp_path / "e.h5")


@pytest.mark.parametrize(
    ("shape", "policy", "message"),
    [
        (Shape(1025, 1024, 1024), "weights", r"layer 0 has 2098176 bytes of weights a unit, .*weight buffer"),
        (Shape(9000, 8, 8), "inputs", r"layer 0 has 13512 bytes of x and h, .*input buffer"),
        (Shape(4, 1025, 4, 1, True), "precision_state", r"layer 0 has 1025 cells, 8200 bytes of state"),
    ],
)
def test_what_does_not_fit_is_refused_or_reloaded(shape, policy, message):
    work = synthetic([shape], [3], 0.5)
    with pytest.raises(InputError, match=message + rf".*set capacity\.{policy} to reload"):
        measure(work, DYN)
    reloading = DYN.replaced({f"capacity.{policy}": "reload"})
    cost = measure(work, reloading)
    room = {
        "weights": {"weights.bank.size": 2**21},
        "inputs": {"input_buffer.size": 2**15},
        "precision_state": {"precision_unit.buffer.size": 2**14},
    }
    roomy = measure(work, DYN.replaced(room[policy]))
    assert cost.time_s > roomy.time_s
    if policy == "inputs":
        # 13,512 - 8,192 bytes in words of 16, before each of the 8 elements of the 3 steps.
        assert cost.compute_cycles - roomy.compute_cycles == 3 * 8 * 333
        extra = [c.components[energy.INTERMEDIATE]["events"]["read"] for c in (cost, roomy)]
        assert extra[0] - extra[1] == 3 * 8 * 333
    else:
        # 1,024 bytes of weights and their offsets in 4 units, or 8 bytes read and written, in each of 3 steps.
        moved = 3 * (1024 * 4 * 9 // 8 if policy == "weights" else 2 * 8)
        assert cost.dram_bytes - roomy.dram_bytes == moved
        assert cost.wait_s - roomy.wait_s == pytest.approx(moved / 30e9, rel=1e-6)


def test_long_outputs_spill_to_dram():
    layers = [Shape(8, 1024, 1024), Shape(1024, 8, 8)]
    work = Workload(tuple(layers), np.array([3100]), constant_rows(layers, True))
    cost = measure(work, DYN)
    roomy = measure(work, DYN.replaced({"intermediate.size": 2 * 6291456}))
    spilled = 3100 * 1024 - 6291456 // 2
    assert cost.dram_bytes - roomy.dram_bytes == 2 * spilled
    with pytest.raises(InputError, match=r"half of the intermediate memory"):
        measure(work, DYN.replaced({"capacity.intermediate": "refuse"}))


def test_weight_loads():
    layers = [Shape(64, 64, 64), Shape(64, 64, 64)]
    work = Workload(tuple(layers), np.array([5, 5, 5]), constant_rows(layers, False))
    each = 4 * 64 * 128 + 4 * 64 * 12
    serial, double, once = (
        measure(work, SIP.replaced(changes))
        for changes in ({}, {"dram.overlap": "double"}, {"dram.loads": "once"})
    )
    assert serial.wait_s == pytest.approx(6 * each / 30e9, rel=1e-9)
    assert double.wait_s == pytest.approx(
        each / 30e9, rel=1e-9
    )  # only the very first has nothing to hide behind
    assert once.wait_s == pytest.approx(2 * each / 30e9, rel=1e-9)
    assert serial.dram_bytes - once.dram_bytes == 4 * each
    assert double.dram_bytes == serial.dram_bytes


def test_composable_units_are_up_to_four_times_as_fast():
    work = Workload((Shape(512, 256, 512),), np.array([4]), constant_rows([Shape(512, 256, 512)], True))
    fused = measure(work, Machine.load("fusion-dyn"))
    fixed = measure(work.fixed(8), SIP)
    assert fixed.busy_cycles == 4 * fused.busy_cycles


def controlled(work, kind, readout=()):
    return work.planned(work.rows, Control(kind, readout))


def test_readout_neurons_cost_time_and_energy():
    work = synthetic([Shape(64, 64, 64)], [20], 0.5)
    plain, asked = measure(controlled(work, "scores"), DYN), controlled(work, "scores", (64,))
    exposed, hidden = measure(asked, DYN), measure(asked, DYN.replaced({"precision_unit.readout": "hidden"}))
    assert exposed.time_s > hidden.time_s > plain.time_s
    # One row of 64 products at 8 bits, in one group, before each step but the first: four words of 16 nibbles of
    # either bank, a plane of all 128 inputs, 64 lanes for eight cycles, 64 bytes staged.
    each = 2 * 4 * 16.3 + 8 * 2.1 + 64 * 8 * 0.0162 + 64 * 8 * 0.007
    assert exposed.control["readout_pj"] == pytest.approx(19 * each, rel=1e-12)
    assert exposed.dynamic_pj - plain.dynamic_pj == pytest.approx(
        19 * each + 64 * (8 * 9) + 2 * 15.4 * 4, rel=1e-6
    )  # and its weights come from DRAM once, and are written
    assert exposed.control["readout_cycles"] == 19 * 8 and plain.control["readout_cycles"] == 0
    assert exposed.dram_bytes - plain.dram_bytes == 64
    assert measure(asked, SIP).control == {
        "kind": "none", "precision_unit_pj": 0.0, "readout_pj": 0.0, "readout_cycles": 0, "area_mm2": 0.0,
    }  # fmt: skip


def test_element_readouts_cost_time_and_energy():
    work = synthetic([Shape(64, 64, 64)], [20], 0.5)
    own = work.planned(work.rows, Control("scores", element_readout=(16,)))
    plain, asked = measure(controlled(work, "scores"), DYN), measure(own, DYN)
    hidden = measure(own, DYN.replaced({"precision_unit.readout": "hidden"}))
    # 64 rows of 16 products over four units, a group of eight cycles each, before each of the 20 steps.
    assert asked.control["readout_cycles"] == 20 * 16 * 8
    assert hidden.compute_cycles - plain.compute_cycles == 20 * 16 * 8 < asked.compute_cycles - plain.compute_cycles
    # Of a row: a word of 16 nibbles of either bank, 16 inputs of the buffer's planes, lanes and staging.
    each = asked.control["readout_pj"] / (20 * 64)
    assert 2 * 16.3 < each < 2 * 16.3 + 8 * 2.1 + 64 * 8 * (0.0162 + 0.007) + 1e-9
    assert asked.dram_bytes - plain.dram_bytes == 64 * 16
    assert measure(own, SIP).control["readout_cycles"] == 0


def test_each_controller_is_charged_for_what_it_needs():
    work = synthetic([Shape(100, 100, 100)], [10], 0.5)
    costs = {kind: measure(controlled(work, kind), DYN) for kind in ("detector", "delta", "mask", "scores", "none")}
    events = {kind: cost.components[energy.PRECISION]["events"] for kind, cost in costs.items()}
    # Words of 64 bits: one element of the detector, two scores, 64 bits of masks.
    assert {kind: (e["read"], e["write"]) for kind, e in events.items()} == {
        "detector": (1000, 1000), "delta": (20, 20), "mask": (20, 0), "scores": (500, 0), "none": (0, 0),
    }  # fmt: skip
    area = {kind: cost.control["area_mm2"] for kind, cost in costs.items()}
    assert area == pytest.approx(
        {
            "detector": 0.00135 + 0.014,
            "delta": 0.0062 + 0.014 / 64,
            "mask": 0.00023 + 0.014 / 64,
            "scores": 0.00062 + 0.014 * 24 / 64,
            "none": 0.0,
        }
    )
    spent = {kind: cost.control["precision_unit_pj"] for kind, cost in costs.items()}
    assert spent["detector"] > spent["scores"] > spent["mask"] > spent["none"] == 0
    # What never changes is known before the cell state, and has to be loaded.
    assert costs["mask"].compute_cycles == costs["none"].compute_cycles <= costs["detector"].compute_cycles
    assert costs["mask"].dram_bytes - costs["none"].dram_bytes == 13
    assert costs["scores"].dram_bytes - costs["none"].dram_bytes == 300


@pytest.mark.parametrize(
    "controller, expected",
    [
        ({"name": "peak", "beta": 0.1}, Control("detector")),
        ({"name": "random", "low_share": 0.5}, Control("detector")),
        ({"name": "static", "bits": 4}, Control("none")),
        ({"name": "delta", "threshold": 0.1}, Control("delta")),
        ({"name": "calibrated", "readout": None}, Control("mask")),
        (
            {"name": "calibrated", "readout": [[{"weights": [1, 2]}, {"weights": []}], [{"weights": [3]}]]},
            Control("scores", (2, 1)),
        ),
        (
            {
                "name": "calibrated",
                "readout": None,
                "element_readout": [
                    [{"x_columns": [1, 2], "h_columns": [0]}, {"x_columns": [], "h_columns": [3]}],
                    [{"x_columns": [], "h_columns": []}],
                ],
            },
            Control("scores", element_readout=(3, 0)),
        ),
        (None, Control("detector")),
    ],
)
def test_the_kind_of_control_comes_from_the_trace(controller, expected):
    assert control.of(controller) == expected


def test_a_controller_without_known_hardware_is_named(trace):
    with traces.open(trace) as opened:
        opened.controller = {"name": "mine.Own"}
        assert any("mine.Own" in note for note in estimate(opened).notes)


def test_notes_say_what_the_machine_lacks(tmp_path):
    shape = Shape(8, 8, 8)
    path = write_trace(
        tmp_path / "t.h5", [shape], np.array([3]), [np.ones((1, 3, 8), bool)], low=5, accumulator_bits=32
    )
    notes = estimate(path).notes
    assert any("32-bit accumulators" in note for note in notes)
    assert any("saves no weight reads" in note for note in notes)


def test_baselines(trace):
    rows = {row["scheme"]: row for row in accel.baselines(trace)}
    assert rows["fixed high"]["speedup"] == 1
    assert rows["fixed low"]["cycles"] < rows["dynamic, per element"]["cycles"] < rows["fixed high"]["cycles"]
    assert rows["dynamic, never low"]["cycles"] >= rows["fixed high"]["cycles"]
    assert rows["dynamic, never low"]["energy_saving"] < 0
    share = rows["dynamic, per element"]["low_share"]
    for scheme in ("static, per element", "dynamic, per layer and step"):
        assert share - 0.03 < rows[scheme]["low_share"] <= share
    assert rows["dynamic, per element"]["energy_pj"] == estimate(trace).energy_pj


def test_sensitivity(trace):
    result = sensitivity(trace)
    plain = estimate(trace)
    for metric in ("speedup", "energy_saving", "area_overhead"):
        assert result["nominal"][metric] == getattr(plain, metric)
        low, high = result["range"][metric]
        assert low < result["nominal"][metric] < high
        for row in result["rows"]:
            assert all(low <= row[end][metric] <= high for end in ("low", "high") if end in row)
    dram = next(row for row in result["rows"] if row["factor"] == "DRAM energy")
    assert dram["constants"] == ["dram.energy"]
    for row, value in ((dram["low"], 4.0), (dram["high"], 14.0)):
        changed = estimate(trace, DYN.replaced({"dram.energy": value}), SIP.replaced({"dram.energy": value}))
        assert row["energy_saving"] == changed.energy_saving


LONG = """
import resource, sys, time
import accel
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
start = time.perf_counter()
share = accel.estimate(sys.argv[1]).low_share
print(time.perf_counter() - start, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss, share)
"""


@pytest.mark.skipif(not hasattr(resource, "RUSAGE_SELF"), reason="no resource usage on this platform")
def test_memory_does_not_grow_with_the_trace(tmp_path):
    generator = np.random.default_rng(0)
    peaks = []
    for steps in (1_000, 100_000):
        masks = [np.tile(generator.random((1, 1_000, 256)) < 0.5, (1, steps // 1_000, 1))]
        path = write_trace(tmp_path / f"{steps}.h5", [Shape(256, 256, 256)], np.array([steps]), masks)
        answer = subprocess.run(
            [sys.executable, "-c", LONG, str(path)], capture_output=True, text=True, check=True
        )
        peaks.append(int(answer.stdout.split()[1]))
    assert peaks[1] - peaks[0] < 40_000  # KiB; the longer plan has 3.2 MB packed and 25.6 MB as booleans
