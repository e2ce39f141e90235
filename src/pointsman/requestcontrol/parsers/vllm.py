"""vLLM's own HTTP body: ``/inference/v1/generate``, tokens in, tokens out."""

from __future__ import annotations

from typing import Annotated

import msgspec
from msgspec import Meta

from pointsman.requestcontrol.parsers.body import Common, Count, Parsed

TokenId = Annotated[int, Meta(ge=0, lt=2**32)]


class _Sampling(msgspec.Struct):
    max_tokens: Count | None = None


class _Generate(Common, kw_only=True):
    # the server knows its own model, so naming one is optional
    model: str | None = None  # type: ignore[assignment]
    token_ids: Annotated[list[TokenId], Meta(min_length=1)]
    sampling_params: _Sampling | None = None


def parse_generate(body: bytes) -> Parsed:
    """What ``/render`` made of a prompt: exact token ids."""
    asked = _GENERATE.decode(body)
    asked.model = asked.model or ""
    sampling = asked.sampling_params or _Sampling()
    return Parsed(asked, b"", tuple(asked.token_ids), sampling.max_tokens)


_GENERATE = msgspec.json.Decoder(_Generate)

PARSERS = {"/inference/v1/generate": parse_generate}
"""Path suffix → parser."""
