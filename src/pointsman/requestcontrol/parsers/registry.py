"""Which parser reads a body: the one with the longest matching path suffix. Any other path passes as it is."""

from __future__ import annotations

from collections.abc import Callable
from functools import lru_cache
from typing import TypeAlias

import msgspec

from pointsman.api.request import BYTES_PER_TOKEN, InferenceRequest, RequestHead
from pointsman.errors import BadRequestError
from pointsman.requestcontrol.hints import NO_HINTS, Hints
from pointsman.requestcontrol.parsers import anthropic, grpc, openai, sglang, vllm
from pointsman.requestcontrol.parsers.body import Common, Parsed

BodyParser: TypeAlias = Callable[[bytes], Parsed]

PARSERS: dict[str, BodyParser] = {
    **openai.PARSERS,
    **anthropic.PARSERS,
    **vllm.PARSERS,
    **sglang.PARSERS,
    **grpc.PARSERS,
}
"""Path suffix → parser; the longest matching suffix wins."""

_NOTHING = Parsed(Common(), b"")


@lru_cache(maxsize=256)
def parser_for(path: str) -> BodyParser | None:
    """The parser that claims a path, or None."""
    matches = [suffix for suffix in PARSERS if path.endswith(suffix)]
    return PARSERS[max(matches, key=len)] if matches else None


def parse_request(
    head: RequestHead, body: bytes, *, request_id: str, arrival: float, hints: Hints = NO_HINTS
) -> InferenceRequest:
    """Understand a request.

    Paths that no parser claims, requests without a body and bodies that the proxy does not show pass as they are,
    without a model or prompt.

    Raises:
        BadRequestError: the body of a known path cannot be understood; the message may go to the client.
    """
    path = head.path
    parse = parser_for(path) if head.method == "POST" and not head.body_unseen else None
    parsed = _NOTHING if parse is None else _read(parse, body)
    common, prompt, ids, max_tokens, prompt_bytes = parsed
    if prompt_bytes is None:
        prompt_bytes = len(prompt)
    return InferenceRequest(
        id=request_id,
        model=common.model,
        target_model=(hints.rewrite or common.model) if common.model else "",
        path=path,
        prompt=prompt,
        prompt_tokens=len(ids) if ids is not None else -(-prompt_bytes // BYTES_PER_TOKEN),
        token_ids=ids,
        max_tokens=max_tokens,
        stream=bool(common.stream),
        cache_salt=common.cache_salt or "",
        headers=head.headers,
        arrival=arrival,
        body_bytes=len(body),
        fairness_id=hints.fairness_id,
        objective=hints.objective,
        slo_ttft_ms=hints.slo_ttft_ms,
        slo_tpot_ms=hints.slo_tpot_ms,
    )


def _read(parse: BodyParser, body: bytes) -> Parsed:
    try:
        return parse(body)
    except msgspec.ValidationError as error:
        raise BadRequestError(_explain(error)) from None
    except UnicodeError:
        raise BadRequestError("the body is no valid JSON: it is not UTF-8") from None
    except msgspec.DecodeError as error:
        raise BadRequestError(f"the body is no valid JSON: {error}") from None
    except RecursionError:
        raise BadRequestError("the body is nested too deeply") from None


def _explain(error: msgspec.ValidationError) -> str:
    text = str(error)
    if "`model`" in text and "missing" in text:
        return "model not found in request body"
    if "`$" not in text and "field `" not in text:
        return f"the body: {text}"
    return text.replace(" - at `$.", " at `").replace(" - at `$", " at `body")
