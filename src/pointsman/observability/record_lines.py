"""The lines of a file of records: what is kept of a request, and none of what it says.

One JSON object a line, told apart by ``kind``: a ``head`` at the beginning of each file, a ``pod`` when an endpoint
is first met or has changed, a ``request`` for each request that ended.
"""

from __future__ import annotations

import sys
from array import array
from base64 import b64decode, b64encode
from typing import Any

import msgspec

VERSION = 1
"""Of the format; readers refuse newer ones."""
BLOCK_TOKENS = 64
"""Tokens per hashed block of a prompt; of prompts whose tokens are not known, the bytes that are taken for so many."""


class HeadLine(msgspec.Struct, frozen=True, kw_only=True, tag_field="kind", tag="head"):
    """First of a file.

    Attributes:
        version: :data:`VERSION` of the writer.
        recording: random; hashes are comparable within one recording only.
        started: wall clock, seconds since 1970, when ``at`` was 0.
        block_tokens: tokens per hashed block.
        block_bytes: bytes per hashed block of prompts without known tokens.
        sample: share of the sessions and prefix groups that is recorded.
        policy: where the configuration in force came from.
        config: the effective configuration itself, empty when it is not to be had.
    """

    version: int
    recording: str
    started: float
    block_tokens: int
    block_bytes: int
    sample: float = 1.0
    policy: str = ""
    config: dict[str, Any] = {}


class PodLine(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True, tag_field="kind", tag="pod"):
    """An endpoint as its gauges told of it; None where they did not."""

    id: str
    engine: str = ""
    block_size: int | None = None
    num_blocks: int | None = None
    max_num_seqs: int | None = None


class ShadowLine(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """What the shadow would have done, see :class:`pointsman.api.record.ShadowRecord`."""

    pod: str
    gain: float = 0.0
    reason: str = ""


class RequestLine(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True, tag_field="kind", tag="request"):
    """A request that ended.

    Attributes:
        id: hash of the request's id.
        at: its arrival, seconds of the picker's clock since ``HeadLine.started``.
        model: as the client named it.
        adapter: the same when it is a LoRA adapter, as far as the picker can tell.
        prompt_tokens: as the picker counted or estimated them.
        exact: whether it knew the token ids; blocks are of tokens then, else of bytes.
        max_tokens: as asked for.
        blocks: hashes of the prompt's full blocks, each standing for the prompt up to its end; see :func:`pack`.
        session: hash of the session's id, ``""`` for none.
        priority: of the request.
        pod: chosen.
        served: who answered, when it was another.
        profile: by which it was decided, and ``unit``, ``fallback``: see ``DecisionRecord``.
        scores: the best candidates with their totals, best first.
        predicted_cached: prompt tokens that the pod was believed to hold.
        scheduling_ms: real milliseconds of the decision.
        cause: how it ended, with the answer's ``status``.
        ttft_ms: None when the answer was not looked at, as are the next three then.
        total_ms: from the pick to the end.
        output_tokens: as the engine counted, as are the next two.
        cached_tokens: of the prompt.
        engine_prompt_tokens: of the prompt.
        shadow: None when none ran.
    """

    id: str
    at: float
    model: str = ""
    adapter: str | None = None
    prompt_tokens: int
    exact: bool = False
    max_tokens: int | None = None
    blocks: str = ""
    session: str = ""
    priority: int = 0
    pod: str
    served: str | None = None
    profile: str = ""
    unit: str = ""
    fallback: str | None = None
    scores: list[tuple[str, float]] = []
    predicted_cached: int | None = None
    scheduling_ms: float = 0.0
    cause: str = ""
    status: int | None = None
    ttft_ms: float | None = None
    total_ms: float = 0.0
    output_tokens: int | None = None
    cached_tokens: int | None = None
    engine_prompt_tokens: int | None = None
    shadow: ShadowLine | None = None


RecordLine = HeadLine | PodLine | RequestLine


def pack(hashes: bytes) -> str:
    """Hashes of eight bytes each as text."""
    return b64encode(hashes).decode()


def unpack(text: str) -> list[int]:
    """Hashes of :func:`pack`, as numbers.

    Raises:
        ValueError: if it is no such text.
    """
    found = array("Q")
    found.frombytes(b64decode(text, validate=True))
    if sys.byteorder == "big":  # pragma: no cover - files travel
        found.byteswap()
    return list(found)
