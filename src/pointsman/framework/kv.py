"""What plugins may ask of the picker's knowledge of KV caches, as the engines' own events tell it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Protocol

import msgspec

from pointsman.api.endpoint import Endpoint, EndpointId
from pointsman.api.request import InferenceRequest


class KvMatch(msgspec.Struct, frozen=True):
    """How many tokens of a prompt each endpoint holds by its own account.

    Attributes:
        tokens: leading tokens held, by the slot of those endpoints whose block size is known.
        keys: keys of all full blocks of the prompt, by block size.
    """

    tokens: Mapping[int, int]
    keys: Mapping[int, Sequence[int]] = {}


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
