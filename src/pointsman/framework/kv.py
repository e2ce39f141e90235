"""What plugins may ask of the picker's knowledge of KV caches, as the engines' own events tell it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import NamedTuple, Protocol

import msgspec

from pointsman.api.endpoint import Endpoint, EndpointId
from pointsman.api.request import InferenceRequest


class KvMatch(msgspec.Struct, frozen=True):
    """How many tokens of a prompt each endpoint holds by its own account.

    Attributes:
        tokens: leading tokens held, by the slot of those endpoints whose block size is known.
        keys: keys of all full blocks of the prompt, by block size.
        remembered: leading tokens that endpoints held, by slot, as a snapshot or a replica that hears them no more
            told: worth no more than a guess.
        slower: of ``tokens``, those whose best tier is CPU memory and those on disk or remote, by slot; a slot that
            holds all of its own in GPU memory is left out.
    """

    tokens: Mapping[int, int]
    keys: Mapping[int, Sequence[int]] = {}
    remembered: Mapping[int, int] = {}
    slower: Mapping[int, tuple[int, int]] = {}


class KvLookup(Protocol):
    """The index inside the picker."""

    def block_tokens(self, endpoint: Endpoint) -> int | None:
        """Tokens per block of an endpoint's KV cache, None while nobody has told."""

    def match(self, request: InferenceRequest, endpoints: Sequence[Endpoint]) -> KvMatch | None:
        """What the endpoints hold of a prompt; None when its exact token ids are not known."""

    def confidence(self, endpoint: EndpointId) -> float:
        """How far what is known of an endpoint can be trusted, 0 to 1; 0 when it sends no events."""

    def speculate(self, endpoint: Endpoint, match: KvMatch, ttl: float) -> None:
        """A request was sent there: believe for ``ttl`` seconds and the usual delay of events that it will be held.

        With a ``ttl`` of 0, only note that the endpoint now has work that should cause events.
        """


class Held(NamedTuple):
    """What an indexer elsewhere says that one endpoint holds of a prompt."""

    tokens: int
    """Leading tokens; at least one of the prompt is never among them."""
    block_tokens: int
    """Tokens per block of the endpoint."""
    confidence: float
    """0 to 1."""
    slower: tuple[int, int] = (0, 0)
    """Of ``tokens``, those whose best tier is CPU memory, and those on disk or remote."""


class RemoteMatch(msgspec.Struct, frozen=True):
    """An indexer's answer for one prompt.

    Attributes:
        held: by endpoint; those it knows nothing of are left out.
        token_ids: of the prompt, when the indexer had to find them.
    """

    held: Mapping[EndpointId, Held]
    token_ids: Sequence[int] | None = None


RemoteMatches = Mapping[str, RemoteMatch]
"""Answers by the name of the producer that wants them; no entry where none came."""


class RemoteKv(Protocol):
    """Indexers outside the picker. Asked before producers run, as these must not wait."""

    def passes(self, request: InferenceRequest) -> bool:
        """Whether this request is to be decided without asking; what is missed by that is counted."""

    async def ask(self, request: InferenceRequest, body: bytes, endpoints: Sequence[Endpoint]) -> RemoteMatches:
        """What the endpoints hold of the prompt, within a deadline. Never raises but when cancelled."""
