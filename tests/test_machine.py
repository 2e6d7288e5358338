"""Machine files: presets, constants with their origins, and what bad files are answered with."""

import re

import pytest
import yaml

import accel
from accel.machine import PRESETS, Machine
from accel.quantity import Quantity
from traces import InputError


def write(tmp_path, text):
    path = tmp_path / "mine.yaml"
    path.write_text(text, encoding="utf-8")
    return path


def test_presets():
    assert accel.machines() == ["epur", "epur-dyn", "epur-sip", "fusion-dyn"]
    for name in accel.machines():
        machine = Machine.load(name)
        assert machine.name == name
        assert machine.dynamic == name.endswith("dyn")


@pytest.mark.parametrize("name", accel.machines())
def test_every_constant_has_an_origin(name):
    for label, constant in Machine.load(name).constants():
        assert bool(constant.source) != bool(constant.assumption), label
        if constant.assumption:
            assert constant.range is not None, label
        if isinstance(constant, Quantity) and constant.range:
            assert constant.range[0] <= constant.value <= constant.range[1], label


def test_a_file_extends_a_preset(tmp_path):
    clock = "clock: {value: 1000, unit: MHz, assumption: guess, range: [500, 1000]}\n"
    path = write(tmp_path, "extends: epur-dyn\nname: fast\n" + clock)
    mine, preset = Machine.load(path), Machine.load("epur-dyn")
    assert mine.clock_hz == 2 * preset.clock_hz
    assert mine.model_copy(update={"name": preset.name, "clock": preset.clock}) == preset


BASE = "extends: epur-dyn\nname: mine\n"


CLOCK = BASE + "clock: "
PATH = BASE + "datapath:\n  "


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (CLOCK + "{value: 0, unit: MHz, source: x}\n", r"line 3: clock: 0 MHz given, expected from 0.01 to 1"),
        (CLOCK + "{value: 5, unit: GHz, source: x}\n", r"line 3: clock: unit is 'GHz', expected 'MHz'"),
        (BASE + "clock:\n  value: fast\n  unit: MHz\n  source: x\n", r"line 4: clock.value: .*'fast'"),
        (CLOCK + "{value: .nan, unit: MHz, source: x}\n", r"line 3: clock.value: .*finite"),
        (CLOCK + "{value: 500, unit: MHz}\n", r"line 3: clock: give either `source` or `assumption`"),
        (CLOCK + "{value: 500, unit: MHz, assumption: x}\n", r"line 3: clock: an assumption needs a `range`"),
        (CLOCK + "{value: 9, unit: MHz, assumption: x, range: [1, 2]}\n", r"line 3: clock: value 9 lies outside"),
        (PATH + "lanes: {value: 1.5, unit: '1', source: x}\n", r"line 4: datapath.lanes: 1.5 1 given.*whole"),
        (PATH + "kind: {value: analog, source: x}\n", r"line 4: datapath.kind: 'analog' given, expected one of"),
        (PATH + "kind: {value: parallel, source: x}\n", r"datapath.serial_operand: inputs for a serial"),
        (BASE + "datapth:\n  lanes: 3\n", r"line 3: datapth: no such field"),
        (BASE + "offsets:\n", r"offsets: missing; a machine of dynamic precision"),
        (BASE + "units: {value: 3, unit: '1', source: x}\n", r"line 3: units: 3 given, expected 1, 2"),
        ("name: empty\n", r"description: missing"),
        ("extends: nothing\n", r"line 1: extends is 'nothing', expected one of epur,"),
        (BASE + "name: twice\n", r"line 3: name is given twice"),
        (BASE + "a: &a [1]\nb: *a\n", r"line 3: anchors and aliases are not accepted"),
        (BASE + "a: !!python/object/apply:os.system [ls]\n", r"line 3: not valid YAML"),
        (BASE + "a: " + "[" * 50 + "]" * 50, r"line 3: nested deeper"),
        (BASE + "#" * 300_000, r"over 262144 characters"),
        ("[1, 2]", r"is a YAML mapping"),
        ("a: b: c", r"line 1: not valid YAML"),
        ("", r"is a YAML mapping"),
        ("1: 2\n", r"line 1: field names are plain text"),
    ],
)
def test_bad_files(tmp_path, text, message):
    with pytest.raises(InputError, match=message) as caught:
        Machine.load(write(tmp_path, text))
    assert "\n" not in str(caught.value)
    assert "mine.yaml" in str(caught.value)


def test_a_bomb_of_aliases_is_refused_before_it_is_expanded(tmp_path):
    lines = ["a0: &a0 [x, x, x, x, x, x, x, x, x]"]
    lines += [f"a{n}: &a{n} [{', '.join([f'*a{n - 1}'] * 9)}]" for n in range(1, 12)]
    with pytest.raises(InputError, match="anchors and aliases"):
        Machine.load(write(tmp_path, "\n".join(lines)))


def test_a_file_that_cannot_be_read(tmp_path):
    with pytest.raises(InputError, match=r"neither a preset"):
        Machine.load("epur-dny")
    with pytest.raises(InputError, match="cannot be read"):
        Machine.load(tmp_path / "absent.yaml")
    with pytest.raises(InputError, match="cannot be read"):
        Machine.load(tmp_path / "..yaml")
    (tmp_path / "binary.yaml").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(InputError, match="cannot be read"):
        Machine.load(tmp_path / "binary.yaml")
    with pytest.raises(InputError, match="machine is int"):
        Machine.load(3)


def test_replacing_constants():
    machine = Machine.load("epur-dyn").replaced({"dram.energy": 4.0, "datapath.padding": "separate"})
    assert float(machine.dram.energy) == 4
    assert str(machine.datapath.padding) == "separate"
    with pytest.raises(InputError, match=r"no constant is called 'dram\.enrgy'"):
        machine.replaced({"dram.enrgy": 4.0})
    with pytest.raises(InputError, match=re.escape("dram.energy: -1 pJ/bit given, expected from 0 to 10000")):
        machine.replaced({"dram.energy": -1.0})


def test_presets_hold_no_field_that_the_base_gives_alike():
    """A file that extends another says only what differs from it."""

    def same(above, below, place):
        for key, value in above.items():
            if isinstance(value, dict) and "value" not in value:
                same(value, below.get(key, {}), f"{place}{key}.")
            else:
                assert value != below.get(key), f"{place}{key}"

    trees = {path.stem: yaml.safe_load(path.read_text()) for path in PRESETS.glob("*.yaml")}
    for tree in trees.values():
        if "extends" in tree:
            same(tree, trees[tree["extends"]], "")
