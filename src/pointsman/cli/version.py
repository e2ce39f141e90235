"""``pointsman version``."""

from __future__ import annotations

import platform
import subprocess
from importlib.metadata import PackageNotFoundError
from importlib.metadata import version as version_of
from typing import Annotated

from cyclopts import Parameter
from rich.console import Console
from rich.table import Table

from pointsman import __version__
from pointsman.cli.common import print_json
from pointsman.envoy.process import find_envoy
from pointsman.errors import StartupError
from pointsman.kvcache import _native

_ENVOY_SECONDS = 5
_PACKAGES = ("grpcio", "msgspec")


def version(
    *,
    verbose: Annotated[
        bool, Parameter(name=["--verbose", "-v"], help="Also of what it stands on, and what is compiled.", negative=())
    ] = False,
    as_json: Annotated[bool, Parameter(name="--json", help="Print JSON.", negative=())] = False,
) -> int:
    """Print the version; with -v also of Python, Envoy and the libraries, and whether the speed helper is in use."""
    facts = {"pointsman": __version__, **(details() if verbose else {})}
    if as_json:
        print_json(facts)
    elif not verbose:
        Console(highlight=False).print(__version__)
    else:
        table = Table(box=None, pad_edge=False, show_header=False)
        for name, value in facts.items():
            table.add_row(name, value)
        Console(highlight=False, markup=False, soft_wrap=True).print(table)
    return 0


def details() -> dict[str, str]:
    """What a bug report should say, by name."""
    return {
        "python": f"{platform.python_version()} ({platform.python_implementation()})",
        "speedups": _native.description(),
        "envoy": _envoy(),
        **{name: _package(name) for name in _PACKAGES},
    }


def _package(name: str) -> str:
    try:
        return version_of(name)
    except PackageNotFoundError:
        return "not installed"


def _envoy() -> str:
    """Version of the Envoy that would be run: ``1.40.0``."""
    try:
        path = find_envoy()
        done = subprocess.run(  # noqa: S603 - a binary that we would run anyway
            [path, "--version"], capture_output=True, text=True, timeout=_ENVOY_SECONDS, check=True
        )
    except StartupError:
        return "not found"
    except (OSError, subprocess.SubprocessError) as error:
        return f"does not run ({type(error).__name__})"
    # "…/envoy  version: <commit>/1.40.0/Clean/RELEASE/BoringSSL"
    parts = done.stdout.strip().split("version:")[-1].strip().split("/")
    return parts[1] if len(parts) > 1 else done.stdout.strip()
