"""Commands that make and show models: export, quantize, info."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from fxp.cli import output
from fxp.cli.sources import Sources
from traces import InputError

Json = Annotated[bool, typer.Option("--json", help="Print JSON and nothing else.")]
Threads = Annotated[int, typer.Option(min=1, help="Threads that share the work; they do not change a bit.")]
Lines = Annotated[bool, typer.Option("--progress", help="In a pipe, print progress to standard error as lines.")]
High = Annotated[int, typer.Option(help="Bits of the high precision (2 to 8).")]
Low = Annotated[int, typer.Option(help="Bits of the low precision (2 to 8, at most the high one).")]
Profile = Annotated[str, typer.Option(help="Arithmetic of the multifunction unit: float32 or fixed.")]
Bits = Annotated[int, typer.Option(help="Width of the accumulators (8 to 32).")]
Overflow = Annotated[str, typer.Option(help="What accumulators do outside their range: wrap or clamp.")]
Granularity = Annotated[str, typer.Option(help="Weights that share a scale: row, gate or tensor.")]
Calibration = Annotated[
    Path, typer.Option("--calibration", "-c", help="Real inputs (data file, .npy or .npz) that set ranges.")
]


def register(app: typer.Typer) -> None:
    """Add the commands to the program."""
    app.command("export")(export)
    app.command("quantize")(quantize)
    app.command("info")(info)


def export(
    source: Annotated[
        Path,
        typer.Argument(
            help="ONNX model (.onnx), named arrays (.npz), or a state dict that torch.save wrote (any other name; "
            "tensors only). Nothing in it is executed."
        ),
    ],
    destination: Annotated[Path, typer.Option("--output", "-o", help="Model file to write.")],
    calibration: Calibration,
    prefix: Annotated[
        str, typer.Option(help="State dict: where the LSTM sits inside a larger model, such as encoder.lstm.")
    ] = "",
    node: Annotated[str | None, typer.Option(help="ONNX: the last LSTM of the stack, if there are several.")] = None,
    embedding: Annotated[
        str | None,
        typer.Option(help="Prefix of the embedding; ONNX: name of its Gather. The inputs are then tokens."),
    ] = None,
    head: Annotated[
        str | None, typer.Option(help="Prefix of the linear readout; ONNX: name of its MatMul, Gemm or Add.")
    ] = None,
    head_scope: Annotated[
        str | None,
        typer.Option(help="What the head reads: each step, or the last one (default step; ONNX says it itself)."),
    ] = None,
    zero_state: Annotated[
        bool, typer.Option("--zero-state", help="ONNX: start from zeros where the initial state is an input.")
    ] = False,
    reverse: Annotated[
        bool,
        typer.Option("--reverse", help="ONNX: take an LSTM that runs backwards alone, for sequences reversed in time."),
    ] = False,
    metric: Annotated[str | None, typer.Option(help="Built-in metric, such as bits_per_character.")] = None,
    high: High = 8,
    low: Low = 4,
    profile: Profile = "float32",
    accumulator_bits: Bits = 24,
    overflow: Overflow = "wrap",
    granularity: Granularity = "row",
    name: Annotated[str, typer.Option(help="Name of the network.")] = "",
    json: Json = False,
) -> None:
    """Turn an ONNX model, named arrays or a PyTorch checkpoint into a quantised model file.

    .onnx needs the onnx extra, a checkpoint the torch extra.

    Example: fxp export lm.pt -o lm.h5 -c train.h5 --prefix lstm --embedding embedding --head head

    Example: fxp export lm.onnx -o lm.h5 -c train.h5 --head /head/MatMul
    """
    from fxp import datafile, network, precision
    from fxp.formats import Formats

    kind = {".onnx": "ONNX models", ".npz": "named arrays"}.get(source.suffix.lower(), "checkpoints")
    given = {
        "ONNX models": {"--node": node is not None, "--zero-state": zero_state, "--reverse": reverse},
        "checkpoints": {"--prefix": bool(prefix)},
    }
    for owner, options in given.items():
        for option, used in options.items():
            if used and owner != kind:
                raise InputError(f"{source}: {option} is for {owner} only")
    formats = Formats(high, low, profile, accumulator_bits, overflow, granularity)
    output.keep(destination, source, calibration)
    _check(source, kind, calibration)
    more: dict[str, Any] = {}
    with output.naming(source, calibration), datafile.read(calibration) as data:
        common = {"calibration_name": str(calibration), "name": name or source.stem, "metric": metric}
        if kind == "ONNX models":
            made, more = _from_onnx(
                source, data, formats, node, head, head_scope, embedding, zero_state, reverse, common
            )
        elif kind == "named arrays":
            made = _from_arrays(source, data, formats, head, head_scope, embedding, common)
        else:
            made = _from_checkpoint(source, data, formats, prefix, head, head_scope or "step", embedding, common)
        checked = precision.check_precision(made, data)
    network.save(made, destination)
    _show(describe_model(made.model, destination) | more, json, checked)


def _check(source: Path, kind: str, calibration: Path) -> None:
    """Read the inputs of `export` in child processes with limits; InputError if that fails or an extra is missing."""
    checks = [Sources(calibration)]
    if kind == "ONNX models":
        from fxp.onnx_graph import onnx_module

        onnx_module()
        checks.append(Sources(source, reader="fxp.onnx_graph:Graph", needs=["onnx"]))
    elif kind == "checkpoints":
        from fxp.export import torch_module

        torch_module()
        checks.append(Sources(source, reader="fxp.export:read_checkpoint", needs=["torch"]))
    for check in checks:
        check.wait()


def _from_onnx(
    source: Path, data: Any, formats: Any, node: str | None, head: str | None, head_scope: str | None,
    embedding: str | None, zero_state: bool, reverse: bool, common: dict[str, Any],
) -> tuple[Any, dict[str, Any]]:  # fmt: skip
    """The network of an ONNX model, and what was taken out of the graph and what was not."""
    from fxp import onnx_layers

    selection = onnx_layers.read(source, node, head, embedding, zero_state=zero_state, reverse=reverse)
    if head_scope is not None and (selection.head is None or selection.head.scope != head_scope):
        found = "no head was asked for" if selection.head is None else f"the graph's head reads {selection.head.scope}"
        raise InputError(f"--head-scope is {head_scope!r}, but {found}")
    made = onnx_layers.quantised(selection, source, data, formats, **common)
    return made, {"taken": selection.taken, "left_out": selection.left_out, "notes": selection.notes}


def _from_arrays(
    source: Path, data: Any, formats: Any, head: str | None, head_scope: str | None, embedding: str | None,
    common: dict[str, Any],
) -> Any:  # fmt: skip
    from fxp import arrays

    for option, value in {"--head": head, "--embedding": embedding}.items():
        if value is not None:
            raise InputError(f"{option} names nothing in arrays: head/kernel and embedding are taken by themselves")
    origin = f"exported from {source.name}"
    return arrays.from_arrays(
        arrays.read(source), data, formats, head_scope=head_scope or "step", origin=origin, **common
    )


def _from_checkpoint(
    source: Path, data: Any, formats: Any, prefix: str, head: str | None, head_scope: str, embedding: str | None,
    common: dict[str, Any],
) -> Any:  # fmt: skip
    from fxp import export

    state = export.read_checkpoint(source)
    return export.from_state_dict(
        export.select(state, prefix),
        data,
        None if head is None else export.readout(export.select(state, head), head_scope),
        formats,
        embedding=None if embedding is None else export.entry(export.select(state, embedding), "weight", embedding),
        origin=f"exported from {source.name}",
        **common,
    )


def quantize(
    model: Annotated[Path, typer.Argument(help="Model file; its float weights are quantised again.")],
    destination: Annotated[Path, typer.Option("--output", "-o", help="Model file to write.")],
    calibration: Calibration,
    high: High = 8,
    low: Low = 4,
    profile: Profile = "float32",
    accumulator_bits: Bits = 24,
    overflow: Overflow = "wrap",
    granularity: Granularity = "row",
    json: Json = False,
) -> None:
    """Quantise a model again with other widths, scales or arithmetic.

    Example: fxp quantize lm.h5 -o lm-6-3.h5 -c train.h5 --high 6 --low 3 --profile fixed
    """
    sources = Sources(model, calibration)
    from fxp import datafile, network, precision, quantise
    from fxp.formats import Formats

    formats = Formats(high, low, profile, accumulator_bits, overflow, granularity)
    output.keep(destination, calibration)
    sources.wait()
    source = network.load(model).model
    with output.naming(model, calibration), datafile.read(calibration) as data:
        made = quantise.requantise(source, data, formats, str(calibration))
        checked = precision.check_precision(network.Network(made), data)
    made.write(destination)
    _show(describe_model(made, destination), json, checked)


def info(
    path: Annotated[Path, typer.Argument(help="A model, data, trace or estimate file.")],
    json: Json = False,
) -> None:
    """Show what a file of the project holds.

    Example: fxp info lm.h5
    """
    import traces

    Sources(path).wait()
    opened = traces.open(path)
    try:
        if isinstance(opened, traces.Model):
            result = describe_model(opened, path)
        elif isinstance(opened, traces.DataFile):
            result = _describe_data(opened, path)
        elif isinstance(opened, traces.Trace):
            result = _describe_trace(opened, path)
        elif isinstance(opened, traces.Estimate):
            result = {"file": str(path), "kind": "estimate", **opened.record}
        else:
            raise InputError(f"{path}: no description for this kind of file")
    finally:
        if hasattr(opened, "close"):
            opened.close()
    _show(result, json)


def describe_model(model: Any, path: Path) -> dict[str, Any]:
    """A model in JSON-able words."""
    return {
        "file": str(path),
        "kind": "model",
        "name": model.name,
        "digest": model.digest(),
        "high": model.high,
        "low": model.low,
        "profile": model.profile,
        "accumulator_bits": model.accumulator_bits,
        "overflow": model.overflow,
        "granularity": model.granularity,
        "embedding": None if model.embedding is None else list(model.embedding.shape),
        "head": None if model.head is None else {"shape": list(model.head.weight.shape), "scope": model.head.scope},
        "metric": model.metric,
        "layers": [
            {
                "input_size": layer.input_size,
                "hidden_size": layer.hidden_size,
                "output_size": layer.output_size,
                "directions": layer.directions,
                "projected": layer.projected,
                "peepholes": layer.peephole is not None,
                "x_scale": float(layer.x_scale),
                "h_scale": float(layer.h_scale),
                "offset_bits_set": float(
                    (layer.wx_offset.sum() + layer.wh_offset.sum()) / (layer.wx_offset.size + layer.wh_offset.size)
                ),
            }
            for layer in model.layers
        ],
        "calibration": model.calibration,
        "origin": model.origin,
        "licence": model.licence,
    }


def _describe_data(data: Any, path: Path) -> dict[str, Any]:
    from fxp import metrics

    lengths = data.lengths
    return {
        "file": str(path),
        "kind": "data",
        "name": data.name,
        "digest": data.digest(),
        "sequences": len(data),
        "steps": int(data.total),
        "shortest": int(lengths.min()),
        "longest": int(lengths.max()),
        "inputs": "tokens" if data.tokens else f"{data.features} features",
        "labels": data.scope,
        "label_kind": metrics.kind_of(data),
        "groups": None if data.groups is None else len(set(data.groups.tolist())),
        "metric": data.metric,
        "origin": data.origin,
        "licence": data.licence,
    }


def _describe_trace(trace: Any, path: Path) -> dict[str, Any]:
    return {
        "file": str(path),
        "kind": "trace",
        "controller": trace.controller,
        "high": trace.high,
        "low": trace.low,
        "profile": trace.profile,
        "sequences": len(trace.lengths),
        "steps": int(trace.offsets[-1]),
        "low_share": float(trace.low_share),
        "model_digest": trace.model_digest,
        "data_digest": trace.data_digest,
        "package_version": trace.package_version,
        "layers": [
            {
                "hidden_size": layer.hidden_size,
                "directions": layer.directions,
                "low_share": float(layer.low_share),
                "overflows": int(layer.overflow_count.sum()),
                "recorded": list(layer.recorded),
            }
            for layer in trace.layers
        ],
    }


def _show(result: dict[str, Any], json: bool, checked: Any = None) -> None:
    """Print a description and, of a network just made, what `fxp.check_precision` found lossy."""
    if json:
        output.emit_json(result if checked is None else {**result, "precision": checked.to_dict()})
        return
    if checked is not None:
        output.warn(checked.lines())
    screen = output.console()
    for key, value in result.items():
        if isinstance(value, list) and value and isinstance(value[0], dict):
            for number, entry in enumerate(value):
                text = ", ".join(f"{k} {v:.6g}" if isinstance(v, float) else f"{k} {v}" for k, v in entry.items())
                screen.print(f"{key[:-1]} {number}: {text}", markup=False)
        elif value not in (None, "", {}, []):
            screen.print(f"{key}: {value}", markup=False)
