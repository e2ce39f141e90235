"""The compiled helper where there is one, else its Python twin.

``POINTSMAN_PURE=1`` in the environment asks for the twin; so does a build left over from another revision.
"""

from __future__ import annotations

import os
from importlib.util import find_spec
from typing import TYPE_CHECKING

REVISION = 3
"""What ``_speedups.c`` must say of itself: an editable install keeps old builds lying about."""


def _why_not() -> str:
    if os.environ.get("POINTSMAN_PURE", "") not in {"", "0"}:
        return "POINTSMAN_PURE is set"
    if find_spec("pointsman._speedups") is None:
        return "not built"
    try:
        from pointsman import _speedups  # noqa: PLC0415 - optional
    except ImportError as error:
        return f"does not load: {error}"
    return "" if _speedups.REVISION == REVISION else f"built from revision {_speedups.REVISION}, not {REVISION}"


REASON = _why_not()
"""Why the Python twin is used; empty when the compiled helper is."""

if TYPE_CHECKING or REASON:
    from pointsman.kvcache._pure import BlockTable, chain_bytes, chain_packed, chain_tokens, unpack_tokens
    from pointsman.kvcache._pure_maps import BlockMap, KeyCounts, read_events
else:
    from pointsman._speedups import (
        BlockMap,
        BlockTable,
        KeyCounts,
        chain_bytes,
        chain_packed,
        chain_tokens,
        read_events,
        unpack_tokens,
    )

__all__ = [
    "REASON",
    "BlockMap",
    "BlockTable",
    "KeyCounts",
    "chain_bytes",
    "chain_packed",
    "chain_tokens",
    "description",
    "read_events",
    "unpack_tokens",
]


def description() -> str:
    """Which of the two is in use, for people: ``compiled``, or ``pure Python (why)``."""
    return f"pure Python ({REASON})" if REASON else "compiled"
