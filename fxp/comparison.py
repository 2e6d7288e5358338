"""Comparisons of controllers as files: what `fxp compare --json` printed."""

from __future__ import annotations

import json
import math
import os
from typing import Any

from fxp.evaluation import Row, Table
from traces import InputError

MOST = 16 << 20
"""Bytes of the largest file that is read."""


def _number(value: Any, where: str) -> float:
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not math.isfinite(value):
        raise InputError(f"{where} is {value!r:.60}; it must be a finite number")
    return float(value)


def _row(entry: Any, where: str) -> Row:
    if not isinstance(entry, dict):
        raise InputError(f"{where} must be an object")
    name, parameters, interval = entry.get("controller"), entry.get("parameters", {}), entry.get("interval")
    if not isinstance(name, str) or not isinstance(parameters, dict):
        raise InputError(f"{where} must have a controller (text) and parameters (an object)")
    if interval is not None:
        if not isinstance(interval, list) or len(interval) != 2:
            raise InputError(f"{where}: interval must be two numbers or null")
        interval = tuple(_number(bound, f"{where}: interval") for bound in interval)
    share, overflows = entry.get("low_share"), entry.get("overflows")
    row = Row(
        name, parameters, _number(entry.get("metric"), f"{where}: metric"),
        _number(entry.get("difference"), f"{where}: difference"), interval,
        None if share is None else _number(share, f"{where}: low_share"),
        None if overflows is None else int(_number(overflows, f"{where}: overflows")),
    )  # fmt: skip
    try:
        row.label  # noqa: B018
    except (KeyError, TypeError, ValueError):
        raise InputError(f"{where}: the parameters are not those of controller {name!r:.60}") from None
    return row


def read(path: str | os.PathLike[str]) -> Table:
    """Read a comparison that `fxp compare --json` printed.

    Raises
    ------
    InputError
        The file cannot be read or is none.
    """
    try:
        if os.path.getsize(path) > MOST:
            raise InputError(f"{path}: has over {MOST >> 20} MiB; fxp compare --json prints less")
        with open(path, encoding="utf-8") as file:
            content = json.load(file)
    except OSError as error:
        raise InputError(f"{path}: cannot be read: {error.strerror}") from None
    except (ValueError, RecursionError):
        raise InputError(f"{path}: is not JSON; make it with fxp compare MODEL DATA --json > {path}") from None
    if not isinstance(content, dict) or not isinstance(content.get("rows"), list) or not content["rows"]:
        raise InputError(f"{path}: is no comparison; make one with fxp compare MODEL DATA --json > {path}")
    metric, unit, better = content.get("metric"), content.get("unit", ""), content.get("higher_is_better")
    if not isinstance(metric, str) or not isinstance(unit, str) or not isinstance(better, bool):
        raise InputError(f"{path}: metric and unit must be text, higher_is_better true or false")
    rows = [_row(entry, f"{path}: row {number}") for number, entry in enumerate(content["rows"])]
    sequences, steps = (int(_number(content.get(name), f"{path}: {name}")) for name in ("sequences", "steps"))
    return Table(metric, unit, better, sequences, steps, rows)
