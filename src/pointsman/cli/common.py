"""What the commands share: option types, exit codes, how errors are shown."""

from __future__ import annotations

import asyncio
import sys
from collections.abc import Callable, Coroutine
from pathlib import Path
from typing import Annotated, Any, Literal

import msgspec
from cyclopts import Parameter
from rich.console import Console
from rich.markup import escape

from pointsman.app.discovery import EndpointOptions
from pointsman.errors import ConfigErrors, PointsmanError

try:
    import uvloop
except ImportError:  # pragma: no cover - there is none for Windows
    uvloop = None

EXIT_BAD_INPUT = 2

LogLevel = Literal["debug", "info", "warning", "error"]

EndpointFlag = Annotated[
    tuple[str, ...],
    Parameter(name="--endpoint", help="A model server, such as http://10.0.0.1:8000. Repeat for each.", negative=()),
]
EndpointsFile = Annotated[
    Path | None,
    Parameter(
        name="--endpoints-file",
        help="YAML file with the model servers (llm-d's file-discovery format); watched for changes.",
    ),
]
ConfigFlag = Annotated[
    str,
    Parameter(
        name="--config",
        help="Configuration file or preset (default, precise, brief, llm-d, round-robin, random, least-request).",
    ),
]


def endpoint_options(urls: tuple[str, ...], file: Path | None) -> EndpointOptions:
    """Endpoints from the two flags."""
    return EndpointOptions(urls=urls, file=file)


def run_async(main: Callable[[], Coroutine[Any, Any, int]]) -> int:
    """Run a coroutine on uvloop where there is one."""
    with asyncio.Runner(loop_factory=uvloop.new_event_loop if uvloop else None) as runner:
        return runner.run(main())


def show_error(error: PointsmanError) -> None:
    """Print an error the way a person reads it: one line each, no stack trace."""
    errors = error.errors if isinstance(error, ConfigErrors) else (error,)
    console = Console(stderr=True, soft_wrap=True, highlight=False)
    for one in errors:
        console.print(f"[bold red]error:[/] {escape(str(one))}")


def print_json(data: Any) -> None:
    """Print data as indented JSON."""
    sys.stdout.write(msgspec.json.format(msgspec.json.encode(data), indent=2).decode() + "\n")
