"""The report and its figures: statistics against plain counting, the page's markup, and the page in a browser."""

import json
import re
from html.parser import HTMLParser

import numpy as np
import pytest
from browser import CHROMIUM, Browser

import accel
import fxp
import traces
from fxp import comparison, evaluation, floating, plans, replay, report
from fxp.cli import app, main
from fxp.quantise import float_layers
from traces import InputError

HOSTILE = "<script>document.title='taken'</script><img src=x onerror=alert(1)>&\"'"
LENGTHS = (9, 4, 130)


@pytest.fixture(scope="module")
def made(make_network, tmp_path_factory):
    """A bidirectional network of three layers, labelled data, and traces with and without cell states."""
    folder = tmp_path_factory.mktemp("report")
    rng = np.random.default_rng(5)
    network = make_network((6, 5, 4), directions=2, classes=3, metric="accuracy", seed=3)
    x = [rng.normal(size=(n, 3)).astype(np.float32) for n in LENGTHS]
    labels = [rng.integers(0, 3, n) for n in LENGTHS]
    data = traces.Data.of(x, labels, ids=[7, 3, 9], name=HOSTILE, origin=HOSTILE, licence=HOSTILE)
    fxp.save(network, folder / "model.h5")
    data.write(folder / "data.h5")
    peak = accel.Peak(profile_steps=2)
    for name, record in (("bare", ()), ("full", ("cell",))):
        fxp.emulate(network, data, peak, trace=folder / f"{name}.h5", record=record, data_digest=data.digest())
    table = fxp.evaluate(network, data, [accel.Static(8), peak])
    (folder / "compare.json").write_text(json.dumps(table.to_dict()))
    accel.estimate(folder / "bare.h5").write(folder / "estimate.h5")
    return folder


@pytest.fixture(scope="module")
def page(made):
    """A report with every section, and the material that it shows."""
    material = report.gather(
        made / "bare.h5", made / "model.h5", made / "data.h5", made / "compare.json", made / "estimate.h5",
        elements=[(0, 0), (0, 3), (1, 1), (2, 2)], sequences=[0, 2],
    )  # fmt: skip
    report.write(material, made / "report.html")
    return made / "report.html", material


def plain_runs(low):
    """Runs of one element of one sequence: [(length, low)]."""
    found = []
    for value in low:
        if found and found[-1][1] == value:
            found[-1][0] += 1
        else:
            found.append([1, value])
    return found


@pytest.mark.parametrize("block", [1, 7, 40, plans.BLOCK])
def test_usage_is_what_counting_gives(made, block, monkeypatch):
    monkeypatch.setattr(plans, "BLOCK", block)
    with traces.open(made / "bare.h5") as trace:
        for direction in (0, 1):
            used = plans.usage(trace, 1, direction)
            plan = [trace.layers[1].low(n, direction) for n in range(len(LENGTHS))]
            runs = np.zeros((2, max(LENGTHS) + 1), int)
            for low in plan:
                for element in range(5):
                    for length, value in plain_runs(low[:, element].tolist()):
                        runs[int(value), length] += 1
            assert (used.runs == runs).all()
            assert (used.element_low == sum(low.sum(axis=0) for low in plan)).all()
            for position in range(max(LENGTHS)):
                rows = [low[position] for low in plan if len(low) > position]
                assert used.position_rows[position] == len(rows)
                assert used.position_low[position] == np.sum(rows)
            assert used.low_share == trace.layers[1].low_count[direction].sum() / (sum(LENGTHS) * 5)


@pytest.mark.parametrize(("rows", "columns", "block"), [(256, 400, 1 << 20), (4, 50, 1 << 20), (4, 50, 13), (1, 1, 5)])
def test_a_map_holds_exact_means_of_blocks(made, rows, columns, block, monkeypatch):
    monkeypatch.setattr(plans, "BLOCK", block)
    with traces.open(made / "bare.h5") as trace:
        shown = plans.precision_map(trace, 0, 1, 2, rows, columns)
        low = trace.layers[0].low(2, 1)
    tall, wide = shown.element_block, shown.step_block
    assert shown.low.shape == (-(-6 // tall), -(-130 // wide))
    assert shown.low.shape[0] <= rows and shown.low.shape[1] <= columns
    for k in range(shown.low.shape[0]):
        for t in range(shown.low.shape[1]):
            piece = low[t * wide : (t + 1) * wide, k * tall : (k + 1) * tall]
            assert shown.low[k, t] == piece.sum() / piece.size
    assert shown.low_share == low.mean()


def test_a_replay_gives_the_cell_states_that_the_trace_lacks(made):
    network = fxp.load(made / "model.h5")
    with traces.open(made / "bare.h5") as bare, traces.open(made / "full.h5") as full, \
            traces.open(made / "data.h5", kind="data") as data:  # fmt: skip
        run = replay.Replay(network, data, bare).run([2, 0])
        for layer in range(3):
            for direction in (0, 1):
                for place, sequence in enumerate([2, 0]):
                    assert (run.layers[layer].cell(place, direction) == full.layers[layer].cell(sequence, direction)).all()


def test_phase_errors_are_what_summing_gives(made):
    network = fxp.load(made / "model.h5")
    with traces.open(made / "full.h5") as trace, traces.open(made / "data.h5", kind="data") as data:
        found = replay.Replay(network, data, trace).errors()
        _, exact = floating.run(float_layers(network.model), list(data))
        off, size, count = [0.0, 0.0], [0.0, 0.0], [0, 0]
        for layer in range(3):
            for direction in (0, 1):
                for sequence in range(3):
                    c, low = trace.layers[layer].cell(sequence, direction), trace.layers[layer].low(sequence, direction)
                    for t, k in np.ndindex(c.shape):
                        phase = 0 if low[t, k] else 1
                        reference = float(exact[layer][sequence][direction][t, k])
                        off[phase] += abs(float(c[t, k]) - reference)
                        size[phase] += abs(reference)
                        count[phase] += 1
    assert [row.variant for row in found.rows] == ["static 4 bits", "this trace", "static 8 bits"]
    assert found.counts == tuple(count) and found.whole and found.steps == sum(LENGTHS)
    assert found.rows[1].relative == pytest.approx([a / b for a, b in zip(off, size, strict=True)])
    assert found.rows[1].absolute == pytest.approx([a / n for a, n in zip(off, count, strict=True)])


def test_errors_of_a_long_sequence_are_taken_over_its_beginning(make_network, tmp_path):
    network, rng = make_network((4,)), np.random.default_rng(0)
    data = traces.Data.of([rng.normal(size=(50, 3)), rng.normal(size=(50, 3))])
    fxp.emulate(network, data, accel.Random(0.5), trace=tmp_path / "t.h5")
    with traces.open(tmp_path / "t.h5") as trace:
        found = replay.Replay(network, data, trace).errors(most=20)
    assert (found.steps, found.sequences, found.whole) == (20, 1, False)


VOID = {"meta", "link", "br", "img", "input", "hr"}


class Checked(HTMLParser):
    """Collects what tests ask of a page; fails where tags do not match."""

    def __init__(self):
        super().__init__()
        self.open, self.elements, self.text = [], [], []

    def handle_starttag(self, tag, attrs):
        names = [name for name, _ in attrs]
        assert len(names) == len(set(names)), f"<{tag}> has an attribute twice: {names}"
        self.elements.append((tag, dict(attrs)))
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag, attrs):
        self.elements.append((tag, dict(attrs)))

    def handle_endtag(self, tag):
        assert self.open and self.open[-1] == tag, f"</{tag}> closes {self.open[-3:]}"
        self.open.pop()

    def handle_data(self, data):
        if not {"script", "style"} & set(self.open):
            self.text.append(data)


def parsed(path):
    checked = Checked()
    checked.feed(path.read_text(encoding="utf-8"))
    checked.close()
    assert not checked.open
    return checked


def test_the_page_is_well_formed_and_refers_to_nothing_outside(page):
    path, _ = page
    content, checked = path.read_text(encoding="utf-8"), parsed(path)
    assert "http:" not in content and "https:" not in content and "//" not in re.sub(r"base64,[^\"]*|// .*", "", content)
    ids = [about["id"] for _, about in checked.elements if "id" in about]
    assert len(ids) == len(set(ids))
    for tag, about in checked.elements:
        for name in ("href", "src", "for", "aria-labelledby"):
            if name in about and not about[name].startswith("data:image/png;base64,"):
                assert about[name].removeprefix("#") in ids, (tag, about)
        assert not any(name.startswith("on") for name in about)
    assert set(re.findall(r"url\(#([^)]+)\)", content)) <= set(ids)
    assert len(content) < 3_000_000


def test_everything_drawn_has_a_text_and_every_control_a_label(page):
    checked = parsed(page[0])
    drawings = [about for tag, about in checked.elements if tag == "svg"]
    assert len(drawings) == 16 + 12 + 18 + 1 + 4
    assert all(about["role"] == "img" and len(about["aria-label"]) > 20 for about in drawings)
    labelled = {about["for"] for tag, about in checked.elements if tag == "label"}
    assert labelled == {about["id"] for tag, about in checked.elements if tag == "select"}
    assert labelled == {"layer", "direction", "sequence", "element"}
    headings = [tag for tag, _ in checked.elements if re.fullmatch("h[1-6]", tag)]
    assert headings == ["h1"] + ["h2"] * (len(headings) - 1)


def test_text_from_files_stays_text(page):
    checked = parsed(page[0])
    assert sum(tag == "script" for tag, _ in checked.elements) == 1
    assert not any(tag == "img" for tag, _ in checked.elements)
    assert checked.text.count(HOSTILE) == 3


def test_the_page_prints_the_numbers_that_were_computed(page, made):
    path, material = page
    words = {text.replace("\u00a0", " ") for text in parsed(path).text}
    with traces.open(made / "bare.h5") as trace:
        assert f"{100 * trace.low_share:.1f} %" in words
        for layer in trace.layers:
            for direction in (0, 1):
                assert f"{int(layer.low_count[direction].sum()):,}" in words
        for digest in (trace.digest(), trace.model_digest, trace.data_digest):
            assert digest in words
        run_count = [int(material.usages[2][1].runs[side].sum()) for side in (0, 1)]
    table = json.loads((made / "compare.json").read_text())
    for row in table["rows"]:
        assert f"{row['metric']:.4f}" in words
        low, high = row["interval"]
        assert f"[{low:+.4f}, {high:+.4f}]" in words
    estimate = accel.estimate(made / "bare.h5")
    assert f"{estimate.cycles:,}" in words and f"{estimate.speedup:.2f}×" in words
    assert f"{100 * estimate.energy_saving:.1f} %" in words
    assert {f"{count:,}" for count in run_count} <= words
    for row in material.errors.rows:
        assert f"{100 * row.relative[0]:.2f} %" in words


def test_a_section_that_lacks_its_input_says_what_would_provide_it(made, tmp_path):
    report.write(report.gather(made / "bare.h5", sequences=[1]), tmp_path / "bare.html")
    checked = parsed(tmp_path / "bare.html")
    words = " ".join(checked.text)
    for option in ("--compare", "--model", "--data", "--machine", "--estimate", "--record cell"):
        assert option in words
    names = [about["aria-label"] for tag, about in checked.elements if tag == "svg"]
    assert len(names) == 6 + 18 + 1 and not any("Energy" in name or "Error" in name for name in names)


def test_controllers_are_compared_where_no_comparison_is_given(made):
    material = report.gather(made / "full.h5", made / "model.h5", made / "data.h5", sequences=[1], wanted=["table"])
    network = fxp.load(made / "model.h5")
    with traces.open(made / "data.h5", kind="data") as data:
        assert material.table == fxp.evaluate(network, data.read())
    assert not material.table_note


@pytest.mark.parametrize("kind", [
    "cell", "precision", "share-by-layer", "share-by-element", "share-by-position", "dwell", "error", "energy",
    "cycles", "loss",
])  # fmt: skip
def test_every_figure_is_drawn(made, tmp_path, kind):
    for suffix, start in ((".svg", b"<?xml"), (".pdf", b"%PDF"), (".png", b"\x89PNG")):
        target = tmp_path / f"figure{suffix}"
        code = app(
            ["plot", kind, str(made / "full.h5"), "-o", str(target), "--model", str(made / "model.h5"), "--data",
             str(made / "data.h5"), "--compare", str(made / "compare.json"), "-m", "epur-dyn", "--layer", "1",
             "--sequence", "2", "--json"], standalone_mode=False,
        )  # fmt: skip
        assert not code and target.read_bytes().startswith(start)
        if kind in ("error", "cycles", "energy"):
            break


def test_the_same_figure_is_the_same_file(made, tmp_path):
    for name in ("a.svg", "b.svg"):
        app(["plot", "dwell", str(made / "bare.h5"), "-o", str(tmp_path / name)], standalone_mode=False)
    assert (tmp_path / "a.svg").read_bytes() == (tmp_path / "b.svg").read_bytes()


@pytest.mark.parametrize(("arguments", "said"), [
    (["report", "bare.h5", "-o", "x.html", "--model", "model.h5"], "belong together"),
    (["report", "bare.h5", "-o", "bare.h5"], "is an input"),
    (["report", "bare.h5", "-o", "no/x.html"], "no/x.html"),
    (["report", "bare.h5", "-o", "x.html", "--elements", "0-3"], "layer:element"),
    (["report", "bare.h5", "-o", "x.html", "--elements", "0:6"], "elements 0 to 5"),
    (["report", "bare.h5", "-o", "x.html", "--elements", "3:0"], "layers 0 to 2"),
    (["report", "bare.h5", "-o", "x.html", "--sequences", "3"], "positions are 0 to 2"),
    (["report", "bare.h5", "-o", "x.html", "--compare", "model.h5"], "fxp compare"),
    (["report", "bare.h5", "-o", "x.html", "--estimate", "other.h5"], "another trace"),
    (["report", "bare.h5", "-o", "x.html", "-m", "epur-dyn", "--estimate", "estimate.h5"], "not both"),
    (["report", "bare.h5", "-o", "x.html", "--model", "other-model.h5", "--data", "data.h5"], "not the model"),
    (["report", "bare.h5", "-o", "x.html", "--model", "model.h5", "--data", "other-data.h5"], "no sequence of id"),
    (["report", "model.h5", "-o", "x.html"], "is a model file"),
    (["plot", "hat", "bare.h5", "-o", "x.pdf"], "possible are cell"),
    (["plot", "cell", "bare.h5", "-o", "x.pdf"], "--model"),
    (["plot", "energy", "bare.h5", "-o", "x.pdf"], "--machine"),
    (["plot", "loss", "bare.h5", "-o", "x.pdf"], "--compare"),
    (["plot", "error", "bare.h5", "-o", "x.pdf"], "--model"),
    (["plot", "dwell", "bare.h5", "-o", "x.gif"], ".pdf, .png or .svg"),
    (["plot", "dwell", "bare.h5", "-o", "x.pdf", "--layer", "3"], "no layer 3"),
])  # fmt: skip
def test_bad_input_is_one_line_and_exit_2(made, make_network, monkeypatch, capsys, arguments, said):
    monkeypatch.chdir(made)
    if not (made / "other.h5").exists():
        traces.Estimate("m", {}, ["a"], *[np.ones(1)] * 3, np.ones((1, 1), np.int64), trace_digest="00").write("other.h5")
        fxp.save(make_network((6, 5, 4), directions=2, seed=4), "other-model.h5")
        traces.Data.of([np.ones((3, 3), np.float32)]).write("other-data.h5")
    with pytest.raises(SystemExit) as left:
        main(arguments)
    error = capsys.readouterr().err
    assert left.value.code == 2 and error.count("\n") == 1 and said in error
    assert not (made / "x.html").exists() and not (made / "x.pdf").exists()


@pytest.mark.parametrize("content", [
    "", "[]", "{}", '{"rows": []}', '{"rows": [1], "metric": "m", "higher_is_better": true}',
    '{"rows": [{"controller": "static", "metric": 1, "difference": 0}], "metric": "m", "higher_is_better": true}',
    '{"rows": [{"controller": "x", "metric": NaN, "difference": 0}], "metric": "m", "higher_is_better": true}',
    '{"rows": [{"controller": "x", "metric": 1, "difference": 0, "interval": [1]}], "metric": "m", "higher_is_better": true}',
    "[" * 100_000,
])  # fmt: skip
def test_a_bad_comparison_is_bad_input(tmp_path, content):
    path = tmp_path / "compare.json"
    path.write_text(content)
    with pytest.raises(InputError, match=r"compare\.json"):
        comparison.read(path)


def test_a_comparison_is_read_as_it_was_printed(made):
    table = comparison.read(made / "compare.json")
    assert isinstance(table, evaluation.Table)
    assert table.to_dict() == comparison.read(made / "compare.json").to_dict()
    assert json.loads(json.dumps(table.to_dict())) == json.loads((made / "compare.json").read_text())


needs_browser = pytest.mark.skipif(CHROMIUM is None, reason="no Chromium on this machine; the page was not opened")


@pytest.fixture(scope="module")
def browser():
    with Browser() as opened:
        yield opened


@needs_browser
@pytest.mark.parametrize("width", [380, 1280])
def test_the_page_opens_without_errors_and_fits(page, browser, width):
    browser.messages.clear()
    browser.requests.clear()
    browser.open(page[0], width)
    assert browser.run("document.documentElement.scrollWidth") <= width
    assert browser.run("document.title") == "bare.h5: precision report"
    assert not browser.messages
    assert {url.split(":", 1)[0] for url in browser.requests} <= {"file", "data"}
    small = "[...document.querySelectorAll('svg.figure')].filter(s => !s.closest('[hidden]') && s.clientWidth < 250).length"
    assert browser.run(small) == 0


@needs_browser
def test_the_controls_choose_what_is_shown(page, browser):
    browser.open(page[0])
    shown = "[...document.querySelectorAll('.panel')].filter(p => !p.hidden).map(p => ({...p.dataset}))"
    choose = "(s => {{ s.value = '{}'; s.dispatchEvent(new Event('change')); }})(document.getElementById('{}'))"
    place = {"layer": "0", "direction": "0", "sequence": "0", "element": "0"}

    def expect(**place):
        keys = ("layer", "direction", "sequence", "element")
        assert sorted(browser.run(shown), key=len) == [{k: place[k] for k in keys[:n]} for n in (2, 3, 4)]

    expect(**place)
    for name, value in (("element", "3"), ("sequence", "2"), ("direction", "1")):
        browser.run(choose.format(value, name))
        place[name] = value
        expect(**place)
    browser.run(choose.format("2", "layer"))
    expect(layer="2", direction="1", sequence="2", element="2")
    assert "layer 2, direction backward, sequence 2, element 2" in browser.run("document.getElementById('shown').value")


@needs_browser
def test_the_keyboard_reaches_and_moves_the_controls(page, browser):
    browser.open(page[0])
    browser.run("document.getElementById('layer').focus()")
    for kind in ("keyDown", "keyUp"):
        browser.call("Input.dispatchKeyEvent", type=kind, key="1", code="Digit1", text="1" if kind == "keyDown" else "")
    assert browser.run("document.getElementById('layer').value") == "1"
    assert browser.run("document.querySelector('.panel:not([hidden])').dataset.layer") == "1"
