"""Builds the Cython extension; everything else is in pyproject.toml."""

import sys

from Cython.Build import cythonize
from setuptools import Extension, setup

# Contraction of a*b + c into a fused multiply-add would change bits, so it is off on every compiler.
EXACT = ["/fp:precise"] if sys.platform == "win32" else ["-O3", "-ffp-contract=off", "-fno-fast-math"]

setup(
    ext_modules=cythonize(
        [Extension("accel.controller", ["accel/controller.pyx"], extra_compile_args=EXACT)],
        compiler_directives={"language_level": 3},
    )
)
