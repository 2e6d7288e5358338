"""How kernels are compiled: no Python, no fast-math, cached on disk, and never stale.

Numba keys its cache on the time stamp of the file that holds a function, so an edit of a helper in another file
would go on serving old machine code. Here the stamp is a digest of every source of the kernels instead.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import llvmlite.binding as llvm
import numba
from numba import njit, types
from numba.core.caching import FunctionCache
from numba.extending import get_cython_function_address


def _digest() -> str:
    folder = Path(__file__).parent
    digest = hashlib.sha256(numba.__version__.encode())
    for path in sorted(folder.glob("*.py")):
        digest.update(path.read_bytes())
    return digest.hexdigest()


SOURCES = _digest()


def kernel(function: Callable[..., Any]) -> Any:
    """Compile `function` for the time loop (decorator)."""
    dispatcher = njit(nogil=True, error_model="numpy", boundscheck=False)(function)
    cache = FunctionCache(function)
    cache._cache_file._source_stamp = SOURCES
    dispatcher._cache = cache
    return dispatcher


def helper(function: Callable[..., Any]) -> Any:
    """Compile a function that kernels call (decorator); it is cached as a part of them."""
    return njit(nogil=True, error_model="numpy", boundscheck=False)(function)


def inlined(function: Callable[..., Any]) -> Any:
    """Compile a function into each of its callers (decorator): for the insides of hot loops."""
    return njit(nogil=True, error_model="numpy", boundscheck=False, forceinline=True)(function)


def external(module: str, name: str, *arguments: Any) -> types.ExternalFunction:
    """A C function of a Cython module as kernels can call it, found by name, so that kernels stay cacheable."""
    symbol = f"fxp_{module}_{name}".replace(".", "_")
    llvm.add_symbol(symbol, get_cython_function_address(module, name))
    return types.ExternalFunction(symbol, types.void(*arguments))
