"""The one thing pyproject.toml cannot say yet: an extension that may fail to build."""

from __future__ import annotations

import sys
import sysconfig

from setuptools import Extension, setup

# One build for every CPython from 3.11 on. The limited API is not there for PyPy and free-threaded CPython; without
# it, or without a compiler, the package is pure Python: `pointsman version -v` says which it is.
LIMITED = sys.implementation.name == "cpython" and not sysconfig.get_config_var("Py_GIL_DISABLED")

HEADERS = ("_xxh3", "_numbers", "_wire", "_kvids", "_kvsets", "_kvtable", "_kvrows", "_kvops", "_kvmap", "_viewmaps")
SPEEDUPS = Extension(
    "pointsman._speedups",
    sources=["src/pointsman/_speedups.c"],
    depends=[f"src/pointsman/{name}.h" for name in HEADERS],
    define_macros=[("Py_LIMITED_API", "0x030B0000")],
    py_limited_api=True,
    optional=True,
)

setup(
    ext_modules=[SPEEDUPS] if LIMITED else [],
    options={"bdist_wheel": {"py_limited_api": "cp311"}} if LIMITED else {},
)
