"""Controllers as written on a command line: `peak`, `peak:beta=0.2,profile_steps=5`,
`random:low_share=0.57,seed=1`, ..."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from fxp.cli.sources import Sources
from traces import InputError

HELP = (
    "static-high, static-low, static:bits=N, random:low_share=S,seed=N, "
    "peak[:beta=B,profile_steps=P,max_stable=N,max_peak=M], "
    "delta:threshold=T,relative=true, schedule:plan=TRACE, calibrated (what a calibrated model carries). "
    "Counts: an int, or a share of the sequence such as 0.05."
)


def _value(text: str) -> Any:
    if text.lower() in ("true", "false"):
        return text.lower() == "true"
    for kind in (int, float):
        try:
            return kind(text)
        except ValueError:
            continue
    return text


def parse(text: str, high: int, low: int, network: Any = None) -> Any:
    """A controller from its text; `calibrated` is the one that the network carries.

    Raises
    ------
    InputError
        Unknown name or parameter, or a value out of range.
    """
    import accel

    name, _, rest = text.partition(":")
    parameters: dict[str, Any] = {}
    for part in filter(None, rest.split(",")):
        key, equals, value = part.partition("=")
        if not equals:
            raise InputError(f"controller {text!r}: expected name=value after the colon, found {part!r}")
        if key.strip() in parameters:
            raise InputError(f"controller {text!r}: {key.strip()} is given twice")
        parameters[key.strip()] = _value(value.strip())
    classes = {"static": accel.Static, "random": accel.Random, "peak": accel.Peak, "delta": accel.Delta}
    try:
        if name == "schedule":
            import traces

            plan = Path(str(parameters.pop("plan")))
            Sources(plan).wait()
            return accel.Schedule(traces.open(plan, kind="trace"), **parameters)
        if name in ("static-high", "static-low"):
            return accel.Static(high if name == "static-high" else low, **parameters)
        if name == "calibrated" and not parameters:
            return _stored(network)
        if name in classes:
            return classes[name](**parameters)
    except (TypeError, KeyError):
        raise InputError(f"controller {text!r}: wrong or missing parameters; possible: {HELP}") from None
    raise InputError(f"controller {text!r} is unknown; possible: {HELP}")


def _stored(network: Any) -> Any:
    from fxp import calibration

    found = None if network is None else calibration.stored(network)
    if found is None:
        raise InputError("the model carries no calibrated controller: make one with fxp calibrate")
    return found
