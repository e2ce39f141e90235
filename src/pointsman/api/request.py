"""What is asked: one inference request, as the scheduler sees it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import msgspec

BYTES_PER_TOKEN = 4
"""Estimate used wherever no tokenizer has spoken (llm-d's estimate backend uses the same figure)."""


DEFAULT_FLOW = "default-flow"
"""Fairness id of requests that name none."""


class RequestHead(msgspec.Struct, frozen=True):
    """The head of an HTTP request as the proxy hands it over.

    ``headers`` has lower-case names, pseudo-headers (``:path``, ``:method``) included; of a repeated header the values
    are joined with a comma. ``subset`` is the proxy's candidate list (``ip`` or ``ip:port`` strings), None when the
    proxy gave none; an empty tuple means that it allows no endpoint at all. ``body_unseen`` says that there is a body
    which the proxy does not show, or not whole, before the decision.
    """

    headers: Mapping[str, str]
    subset: tuple[str, ...] | None = None
    body_unseen: bool = False

    @property
    def path(self) -> str:
        return self.headers.get(":path", "/").partition("?")[0]

    @property
    def method(self) -> str:
        return self.headers.get(":method", "POST")


class InferenceRequest(msgspec.Struct, frozen=True, kw_only=True):
    """One request, immutable. Sizes are in bytes or tokens, times in seconds of the picker's clock.

    Attributes:
        id: unique; the client's ``x-request-id`` when it sent one.
        model: the model or adapter the client named; ``""`` for requests without a body (GET).
        target_model: the name sent on to the model server.
        path: request path without query.
        prompt: canonical bytes of the prompt, of a very long one its beginning; a longer conversation has the shorter
            one as its prefix.
        prompt_tokens: length of the prompt in tokens; an estimate unless ``token_ids`` is set.
        token_ids: exact token ids when known (a client may send them), else None.
        max_tokens: upper bound on output tokens, None when the client gave none.
        stream: whether the answer comes as server-sent events.
        cache_salt: separates prefix caches of tenants; part of every block key.
        headers: lower-case header names.
        arrival: when the request head arrived.
        priority: from the objective; negative may be shed.
        body_bytes: size of the body.
        fairness_id: tenant or flow that the request counts for.
        objective: name of the objective that the client asked for, ``""`` for none.
        slo_ttft_ms: milliseconds to the first token that the client wants, None when it did not say.
        slo_tpot_ms: milliseconds per further token, ditto.
    """

    id: str
    model: str
    target_model: str = ""
    path: str = "/"
    prompt: bytes = b""
    prompt_tokens: int = 0
    token_ids: Sequence[int] | None = None
    max_tokens: int | None = None
    stream: bool = False
    cache_salt: str = ""
    headers: Mapping[str, str] = {}
    arrival: float = 0.0
    priority: int = 0
    body_bytes: int = 0
    fairness_id: str = DEFAULT_FLOW
    objective: str = ""
    slo_ttft_ms: float | None = None
    slo_tpot_ms: float | None = None
