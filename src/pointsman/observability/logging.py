"""Logs: one JSON object per line on standard error, or readable text on a terminal. Quiet by default."""

from __future__ import annotations

import json as stdlib_json
import logging
import sys
from contextlib import suppress
from typing import Any

import msgspec
import structlog

LEVELS = {"debug": logging.DEBUG, "info": logging.INFO, "warning": logging.WARNING, "error": logging.ERROR}


def setup(level: str = "info", *, json: bool | None = None) -> None:
    """Configure logging for this process; JSON unless standard error is a terminal."""
    as_json = not sys.stderr.isatty() if json is None else json
    renderer: Any = (
        structlog.processors.JSONRenderer(serializer=_to_json)
        if as_json
        else structlog.dev.ConsoleRenderer(colors=sys.stderr.isatty())
    )
    structlog.configure(
        processors=[
            structlog.processors.add_log_level,
            structlog.processors.TimeStamper(fmt="iso", utc=True),
            structlog.processors.format_exc_info,
            renderer,
        ],
        wrapper_class=structlog.make_filtering_bound_logger(LEVELS[level]),
        logger_factory=_StandardError,
        cache_logger_on_first_use=True,
    )


class _StandardError:
    """Writes lines. A pipe that nobody reads any more, or a full disk, loses the line and never fails a request."""

    def __init__(self, *_: Any) -> None:
        pass

    def msg(self, line: str) -> None:
        with suppress(OSError, ValueError):
            sys.stderr.write(line + "\n")
            sys.stderr.flush()

    debug = info = warning = error = critical = msg


def _to_json(data: Any, **_: Any) -> str:
    try:
        return msgspec.json.encode(data, enc_hook=str).decode()
    except UnicodeError:  # half a surrogate pair, as in a file name that is no UTF-8: a log line must never raise
        return stdlib_json.dumps(data, default=str)


def logger(name: str) -> Any:
    """A logger whose lines carry ``logger: name``."""
    return structlog.get_logger().bind(logger=name)
