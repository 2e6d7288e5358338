"""The cycle model: against the cycle-by-cycle twin, against bounds, and its rules one by one."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from twins import pipeline as twin

from accel import cycles, pipeline
from accel.control import Control
from accel.machine import Machine, machines
from accel.workload import Shape, Workload, constant_rows, synthetic
from traces import InputError

DYN, SIP = Machine.load("epur-dyn"), Machine.load("epur-sip")


def planned(shape, lengths, masks):
    """A workload from bool masks [D, total, H]."""
    packed = np.packbits(np.asarray(masks, bool), axis=-1, bitorder="little")
    return Workload((shape,), np.array(lengths), lambda layer, side, start, stop: packed[side, start:stop])


def twin_unit(machine, shape, control):
    """The twin's constants, worked out from the machine file anew."""
    path, dynamic = machine.datapath, machine.dynamic
    tracks, readout = dynamic and control.kind in ("detector", "delta"), control.inputs(0)
    unit = machine.multifunction
    per_unit = 4 // int(machine.units)

    def groups(parts, bits, offsets):
        width = int(path.inner_product_units) * int(path.lanes)
        work = {"serial": bits, "parallel": 1, "composable": 1}[str(path.kind)]
        mode = bits
        if str(path.kind) == "composable":
            mode = 2 if bits <= 2 else 4 if bits <= 4 else 8
            width *= (8 // mode) ** 2
        elif str(path.kind) == "parallel":
            mode = 8
        work = max(work, -(-width * mode // int(machine.input_buffer.word)))
        banks = 1 if bits <= int(machine.weights.bank_bits) else 2
        result = []
        for size in [sum(parts)] if str(path.padding) == "joint" else parts:
            while size > 0:
                held = min(size, width)
                fetch = -(-held * banks * int(machine.weights.bank_bits) // int(machine.weights.port))
                if offsets:
                    fetch = max(fetch, -(-held // int(machine.offsets.word)))
                result.append((fetch, work))
                size -= held
        return result, width

    def recurrent(width):
        if str(path.forward_overlap) == "no":
            return 0
        return shape.input_size // width if str(path.padding) == "joint" else -(-shape.input_size // width)

    inputs = [shape.input_size, shape.output_size]
    high, high_width = groups(inputs, shape.high, False)
    low, low_width = groups(inputs, shape.low, dynamic and shape.low < shape.high)
    add, multiply, send = int(unit.add), int(unit.multiply), int(unit.communicate)
    activate = int(unit.exponential) + add + int(unit.divide)
    to_cell = (multiply + add * int(unit.parts)) + add * shape.peepholes + activate + send + multiply + add
    quantise = multiply + add + send
    interval = int(unit.interval)
    return twin.Unit(
        depth=int(path.prefetched_groups),
        tree=int(path.reduction),
        interval=max(interval, int(machine.precision_unit.interval)) if tracks else interval,
        to_cell=to_cell,
        to_hidden=to_cell + (multiply + add) * shape.peepholes + activate + send + multiply + quantise,
        to_projected=multiply + quantise,
        to_readout=multiply + add,
        decide=int(machine.precision_unit.latency) if dynamic else 0,
        dynamic=tracks,
        high=high * per_unit,
        low=low * per_unit,
        recurrent_high=recurrent(high_width),
        recurrent_low=recurrent(low_width),
        projections=-(-shape.output_size // int(machine.units)) if shape.projected else 0,
        projected=groups([shape.hidden_size], shape.high, False)[0],
        readout=str(machine.precision_unit.readout) if dynamic and readout else "none",
        read=groups([readout], shape.high, False)[0],
    )


@st.composite
def cases(draw):
    changes = {
        "units": draw(st.sampled_from([1, 2, 4])),
        "datapath.reduction": draw(st.integers(0, 12)),
        "datapath.prefetched_groups": draw(st.integers(1, 4)),
        "datapath.padding": draw(st.sampled_from(["joint", "separate"])),
        "datapath.forward_overlap": draw(st.sampled_from(["yes", "no"])),
        "multifunction.divide": draw(st.integers(0, 16)),
        "multifunction.interval": draw(st.integers(1, 40)),
        "multifunction.parts": draw(st.sampled_from([1, 2])),
        "weights.port": draw(st.sampled_from([16, 64, 128, 256])),
        "datapath.lanes": draw(st.sampled_from([1, 2, 4, 16])),
    }
    name = draw(st.sampled_from(machines()))
    if name.endswith("dyn"):
        changes["precision_unit.latency"] = draw(st.sampled_from([0, 4, 60, 200]))
        changes["precision_unit.interval"] = draw(st.integers(1, 30))
        changes["precision_unit.readout"] = draw(st.sampled_from(["exposed", "hidden"]))
    machine = Machine.load(name).replaced(changes)
    hidden = draw(st.integers(1, 12))
    projected = draw(st.booleans())
    low = draw(st.integers(2, 8))
    shape = Shape(
        input_size=draw(st.integers(1, 80)),
        hidden_size=hidden,
        output_size=draw(st.integers(1, 6)) if projected else hidden,
        directions=draw(st.sampled_from([1, 2])),
        projected=projected,
        high=draw(st.integers(low, 8)),
        low=low,
        peepholes=draw(st.booleans()),
    )
    lengths = draw(st.lists(st.integers(1, 5), min_size=1, max_size=3))
    seed = draw(st.integers(0, 2**31))
    chances = np.random.default_rng(seed).random((shape.directions, sum(lengths), hidden))
    masks = chances < draw(st.floats(0, 1))
    kind = draw(st.sampled_from(["detector", "delta", "mask", "scores"]))
    readout = (draw(st.integers(0, shape.output_size)),) if kind == "scores" else ()
    return machine, shape, lengths, masks, Control(kind, readout), draw(st.integers(1, 6))


@settings(max_examples=40, deadline=None, derandomize=True)
@given(cases())
def test_agrees_with_the_cycle_by_cycle_twin(case):
    machine, shape, lengths, masks, control, block = case
    if not machine.dynamic:
        masks = np.zeros_like(masks)
    work = planned(shape, lengths, masks)
    work = Workload(work.layers, work.lengths, work.rows, control=control)
    # Small blocks: a plan is read in pieces that end anywhere in a sequence.
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(cycles, "BLOCK", block * shape.packed_width)
        timing = cycles.run(work, machine)[0]
    unit = twin_unit(machine, shape, control)
    ends = np.cumsum(lengths)
    for side in range(shape.directions):
        for number, (start, end) in enumerate(zip(ends - lengths, ends, strict=True)):
            rows = masks[side, start:end][:: -1 if side else 1]
            assert timing.cycles[side, number] == twin.cycles(unit, rows.tolist())
            assert timing.low_count[side, number] == rows.sum()


def test_a_full_table_of_states_changes_nothing(monkeypatch):
    shape = Shape(150, 30, 30)
    work = synthetic([shape], [40, 7], 0.5)
    machine = DYN.replaced({"datapath.prefetched_groups": 4, "datapath.lanes": 2, "weights.port": 64})
    expected = cycles.run(work, machine)[0].cycles
    monkeypatch.setattr(pipeline, "MAX_STATES", 3)
    assert (cycles.run(work, machine)[0].cycles == expected).all()


@pytest.mark.parametrize("name", machines())
def test_never_faster_than_the_busiest_unit(name):
    machine = Machine.load(name)
    work = synthetic([Shape(100, 70, 70), Shape(70, 40, 16, 2, True)], [9, 1, 30], 0.4)
    work = work if machine.dynamic else work.fixed(8)
    for shape, timing in zip(work.layers, cycles.run(work, machine), strict=True):
        assert (timing.cycles >= timing.busy).all()
        assert (timing.cycles >= work.lengths * shape.hidden_size * int(machine.multifunction.interval)).all()


def test_busy_cycles_follow_from_topology_and_plan():
    # 100 + 70 inputs are two groups of 128; each takes 8 cycles at high and 4 at low precision.
    work = synthetic([Shape(100, 70, 70)], [9, 1, 30], 0.4)
    timing = cycles.run(work, DYN)[0]
    low = timing.low_count[0]
    assert (timing.busy[0] == 2 * (8 * (work.lengths * 70 - low) + 4 * low)).all()


@pytest.mark.parametrize("depth", [1, 2, 3])
@pytest.mark.parametrize("name", ["epur-dyn", "fusion-dyn"])
def test_more_low_decisions_never_cost_cycles(name, depth):
    generator = np.random.default_rng(depth)
    machine = Machine.load(name).replaced({"datapath.prefetched_groups": depth})
    for _ in range(60):
        hidden, inputs, steps = generator.integers([1, 1, 1], [40, 300, 6])
        shape = Shape(int(inputs), int(hidden), int(hidden))
        fewer = generator.random((1, steps, hidden)) < generator.random()
        more = fewer | (generator.random(fewer.shape) < 0.2)
        few, many = (cycles.run(planned(shape, [steps], mask), machine)[0] for mask in (fewer, more))
        assert many.cycles.sum() <= few.cycles.sum()


def test_without_low_decisions_no_faster_than_the_fixed_machine():
    for shape in (Shape(128, 128, 128), Shape(3, 5, 5), Shape(640, 320, 320)):
        work = Workload((shape,), np.array([7]), constant_rows([shape], False))
        assert cycles.run(work, DYN)[0].cycles.sum() >= cycles.run(work.fixed(8), SIP)[0].cycles.sum()


@pytest.mark.parametrize(("depth", "stall"), [(1, 4), (2, 0)])
def test_a_change_from_low_to_high_stalls_unless_a_second_group_is_fetched_ahead(depth, stall):
    # The group after takes 8 cycles to fetch at high precision, the one at work lasts 4 (128 bytes, 16 a
    # cycle).
    machine = DYN.replaced({"datapath.prefetched_groups": depth})
    shape = Shape(128, 128, 128)
    mask = np.zeros((1, 1, 128), bool)
    plain = cycles.run(planned(shape, [1], mask), machine)[0]
    mask[0, 0, 40] = True
    one_low = cycles.run(planned(shape, [1], mask), machine)[0]
    assert plain.cycles - one_low.cycles == (plain.busy - one_low.busy) - stall


def test_a_precision_that_the_datapath_cannot_process_is_refused():
    machine = DYN.replaced({"datapath.max_bits": 6})
    with pytest.raises(InputError, match=r"layer 0 runs at 8 bits; machine epur-dyn processes at most 6"):
        cycles.run(synthetic([Shape(8, 8, 8)], [3], 0.5), machine)


def test_other_pairs_of_precisions_run():
    # Two groups of serial work: b cycles each at b bits.
    work = synthetic([Shape(100, 70, 70, high=6, low=3)], [5], 0.5)
    timing = cycles.run(work, DYN)[0]
    low = int(timing.low_count.sum())
    assert int(timing.busy.sum()) == 2 * (6 * (5 * 70 - low) + 3 * low)
