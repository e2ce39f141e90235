"""What is waited for before a decision: token ids of the prompt, and answers of indexers. Each has a deadline."""

from __future__ import annotations

from collections.abc import Sequence

from msgspec.structs import replace

from pointsman.api.endpoint import Endpoint
from pointsman.api.request import InferenceRequest
from pointsman.framework.kv import RemoteKv, RemoteMatches
from pointsman.framework.observer import Observer
from pointsman.requestcontrol.tokenizing.service import Tokenizing, enrich

NO_MATCHES: RemoteMatches = {}


async def find_out(
    request: InferenceRequest,
    body: bytes,
    endpoints: Sequence[Endpoint],
    tokenizing: Tokenizing | None,
    remote: RemoteKv | None,
    observer: Observer,
) -> tuple[InferenceRequest, RemoteMatches]:
    """The request with its tokens, and what indexers say of it. Never raises but when cancelled.

    Args:
        request: as parsed from ``body``.
        body: as the client sent it.
        endpoints: all there are now.
        tokenizing: None when the tokens are known, or nobody finds them.
        remote: None when there is nobody to ask.
        observer: told when the tokens were not to be had.
    """
    if tokenizing is not None:
        found = await tokenizing.tokens(request, body)
        if found.token_ids is None:
            observer.degraded("tokens-late" if found.late else "no-tokens")
        request = enrich(request, found)
    if remote is None:
        return request, NO_MATCHES
    matches = await remote.ask(request, body, endpoints)
    if request.token_ids is None:
        ids = next((match.token_ids for match in matches.values() if match.token_ids is not None), None)
        if ids is not None:
            request = replace(request, token_ids=ids, prompt_tokens=len(ids))
    return request, matches
