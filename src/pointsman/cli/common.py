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
from pointsman.app.kubernetes import KubeOptions
from pointsman.errors import ConfigError, ConfigErrors, PointsmanError

try:
    import uvloop
except ImportError:  # pragma: no cover - there is none for Windows
    uvloop = None

EXIT_BAD_INPUT = 2

LogLevel = Literal["debug", "info", "warning", "error"]

EndpointFlag = Annotated[
    tuple[str, ...],
    Parameter(
        name="--endpoint",
        help="A model server, such as http://10.0.0.1:8000, or a DNS name to follow: dns://vllm.default.svc:8000, "
        "dns+srv://_http._tcp.vllm.default.svc. Repeat for each.",
        negative=(),
    ),
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


RecordsFlag = Annotated[
    Path | None,
    Parameter(
        name="--records",
        help="Folder or file to keep records of requests in, for `pointsman replay`: lengths, times, hashes of the "
        "prompts, decisions and outcomes, no text.",
    ),
]
RecordsSample = Annotated[
    float,
    Parameter(
        name="--records-sample",
        help="Share to record, 0 to 1; whole sessions, or all requests whose prompts begin alike.",
    ),
]
RecordsMaxMb = Annotated[
    float, Parameter(name="--records-max-mb", help="Bound on the size of all record files together, in megabytes.")
]


def endpoint_options(urls: tuple[str, ...], file: Path | None, kube: KubeOptions | None = None) -> EndpointOptions:
    """Endpoints from the flags.

    Raises:
        ConfigError: if they come from Kubernetes and from elsewhere, too.
    """
    if kube is not None and (urls or file is not None):
        raise ConfigError("endpoints come from Kubernetes or from elsewhere, not both", hint="leave --endpoint out")
    return EndpointOptions(urls=urls, file=file, kube=kube)


def check_snapshot(path: Path | None, flag: str = "--kv-snapshot") -> None:
    """Refuse a snapshot that could never be written.

    Raises:
        ConfigError: if its folder does not exist, or if it is a folder itself.
    """
    if path is None:
        return
    if not path.absolute().parent.is_dir():
        raise ConfigError(f"{flag}: there is no folder {path.absolute().parent}")
    if path.is_dir():
        raise ConfigError(f"{flag}: {path} is a folder, a file is wanted")


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
