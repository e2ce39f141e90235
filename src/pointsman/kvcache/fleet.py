"""The fleet's KV caches as plugins ask for them: one index, a view per endpoint, and how far each is to be trusted.

Chains start from the adapter and the cache salt, not from the model's name: an endpoint serves one base model under
any number of names, and which endpoints serve a request's model is for filters to say.
"""

from __future__ import annotations

import math
from array import array
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from pointsman.api.endpoint import Endpoint, EndpointId
from pointsman.api.request import InferenceRequest
from pointsman.clock import Clock
from pointsman.framework.kv import KvMatch
from pointsman.kvcache.blocks import token_block_keys
from pointsman.kvcache.event_keys import root_key
from pointsman.kvcache.following import StreamStatus
from pointsman.kvcache.known_pods import HolderInfo
from pointsman.kvcache.kv_index import KVIndex, MatchResult
from pointsman.kvcache.pod_view import PodView
from pointsman.kvcache.remembered import Remembered
from pointsman.kvcache.shared_changes import Tap, untapped

MODEL = ""
REFRESH = 0.1
"""Seconds between two looks at the streams: asking each of 500 of them anew would cost every pick 0.5 ms."""
LIVE = 0.5
"""Confidence from which on what is remembered of an endpoint is followed, not just remembered."""
LONGEST_DELAY = 10.0
"""Seconds that the delay of events may prolong an expectation."""

Status = Callable[[], Mapping[EndpointId, StreamStatus]]


class FleetIndex:
    """Implements :class:`pointsman.framework.kv.KvLookup`. Belongs to one event loop.

    Args:
        clock: real seconds, as engines' events come whatever the picker's clock does.
    """

    def __init__(self, clock: Clock) -> None:
        self.index = KVIndex()
        self.expect: Callable[[EndpointId], None] = lambda _: None
        """Told of endpoints that have work which should cause events."""
        self.tap: Tap = untapped
        """Gives the sinks of views."""
        self.remembered: Remembered | None = None
        """What a snapshot or other replicas tell of endpoints that are not heard well."""
        self._clock = clock
        self._views: dict[EndpointId, PodView] = {}
        self._slots: dict[EndpointId, int] = {}
        self._status: Status = dict
        self._confidence: Callable[[EndpointId], float] = lambda _: 0.0
        self._lag: Callable[[EndpointId], float] = lambda _: 0.0
        self._seen: Mapping[EndpointId, StreamStatus] = {}
        self._trust: dict[EndpointId, float] = {}
        self._due = self._seen_until = -math.inf

    def follow(
        self, status: Status, confidence: Callable[[EndpointId], float], lag: Callable[[EndpointId], float]
    ) -> None:
        """Ask there how the streams are: all of them in detail for people, and one of them for a pick."""
        self._status, self._confidence, self._lag = status, confidence, lag
        self._due = self._seen_until = -math.inf

    def reset(self) -> None:
        """Begin anew. Views handed out before write to what is thrown away."""
        self.index = KVIndex()
        self._views.clear()
        self._slots.clear()
        self._due = self._seen_until = -math.inf

    def view(self, endpoint: Endpoint) -> PodView:
        """A new view of an endpoint, empty."""
        self.forget(endpoint.id)
        sink = self.tap(endpoint.id, 0, endpoint.slot, self.index)
        view = self._views[endpoint.id] = PodView(sink, endpoint.slot, MODEL)
        self._slots[endpoint.id] = endpoint.slot
        return view

    def forget(self, endpoint: EndpointId) -> None:
        """An endpoint is gone."""
        if self._views.pop(endpoint, None) is not None:
            self.index.clear(self._slots.pop(endpoint))

    def block_tokens(self, endpoint: Endpoint) -> int | None:
        """What the endpoint's events say, else its metrics."""
        view = self._views.get(endpoint.id)
        remembered = self.remembered.block_size(endpoint.id) if self.remembered else 0
        return (view.block_size if view else 0) or remembered or endpoint.metrics.block_size

    def confidence(self, endpoint: EndpointId) -> float:
        """As of the last tenth of a second."""
        self._refresh()
        known = self._trust.get(endpoint)
        if known is None:
            shared = self.remembered.confidence(endpoint) if self.remembered else 0.0
            known = self._trust[endpoint] = max(self._confidence(endpoint), shared)
        return known

    def match(self, request: InferenceRequest, endpoints: Sequence[Endpoint]) -> KvMatch | None:
        """Tokens held by endpoint; at least one token of a prompt is always left to compute, as in the engines."""
        if not request.token_ids:
            return None
        sizes: dict[int, list[Endpoint]] = {}
        for endpoint in endpoints:
            size = self.block_tokens(endpoint)
            if size:
                sizes.setdefault(size, []).append(endpoint)
        ids = array("I", request.token_ids)
        root = root_key(MODEL, _adapter(request, endpoints), request.cache_salt or None)
        keys: dict[int, Sequence[int]] = {}
        tokens: dict[int, int] = {}
        slower: dict[int, tuple[int, int]] = {}
        for size, members in sizes.items():
            own = keys[size] = token_block_keys(ids, size, root)
            usable = (len(ids) - 1) // size
            found = self.index.match(own if usable == len(own) else own[:usable])
            for endpoint in members:
                tokens[endpoint.slot] = found.of(endpoint.slot) * size
            if found.cpu or found.disk:  # empty while nothing matched is outside GPU memory
                slower |= _slower(found, size, members)
        remembered: dict[int, int] = {}
        if self.remembered:
            for held in self.remembered.match(ids, root, endpoints, keys):
                # What a replica hears at this moment is as good as a stream of our own; all else is but a guess.
                into = tokens if held.confidence >= LIVE else remembered
                into[held.endpoint.slot] = max(tokens.get(held.endpoint.slot, 0), held.tokens)
        return KvMatch(tokens, keys, remembered, slower)

    def speculate(self, endpoint: Endpoint, match: KvMatch, ttl: float) -> None:
        """See :meth:`pointsman.framework.kv.KvLookup.speculate`."""
        size = self.block_tokens(endpoint)
        keys = match.keys.get(size or 0)
        if not size or not keys:
            return
        if len(keys) * size > match.tokens.get(endpoint.slot, 0) + size:
            self.expect(endpoint.id)
        if ttl:
            lag = self._lag(endpoint.id)
            delay = min(2 * lag, LONGEST_DELAY) if lag > 0 else 0.0
            self.index.speculate(endpoint.slot, keys, self._clock.now() + ttl + delay)

    def bound(self, endpoint: Endpoint) -> None:
        """Distrust counted copies that an endpoint's memory cannot hold."""
        view = self._views.get(endpoint.id)
        if view is not None and endpoint.metrics.num_blocks:
            view.bound(endpoint.metrics.num_blocks)

    def describe(self, endpoint: Endpoint) -> dict[str, Any] | None:
        """An endpoint for the admin page; None when it is not followed."""
        now = self._clock.now()
        if now >= self._seen_until:
            self._seen, self._seen_until = self._status(), now + REFRESH
        status = self._seen.get(endpoint.id)
        if status is None:
            return None
        gpu, cpu, disk = self.index.tier_blocks(endpoint.slot)
        return {
            "blocks": {"gpu": gpu, "cpu": cpu, "disk": disk},
            "block_tokens": self.block_tokens(endpoint),
            "connected": status.connected,
            "confidence": round(status.confidence, 4),
            "lag_ms": round(status.lag * 1000, 1) if status.lag >= 0 else None,
            "batches": status.batches,
            "gaps": status.gaps,
            "lost": status.lost,
            "replays": status.replays,
            "restarts": status.restarts,
        }

    def keys_of(self, endpoint: EndpointId, tier: int) -> list[int]:
        """Keys that an endpoint is said or remembered to hold in a tier; for snapshots."""
        slot = self._slots.get(endpoint)
        own = self.index.keys_of(slot, tier) if slot is not None else []
        remembered = self.remembered.keys_of(endpoint, tier) if self.remembered else []
        return list(dict.fromkeys(own + remembered)) if own and remembered else own or remembered

    def holders(self) -> list[HolderInfo]:
        """What each followed endpoint holds, for metrics."""
        found = []
        for endpoint_id, view in self._views.items():
            gpu, cpu, disk = self.index.tier_blocks(self._slots[endpoint_id])
            sure = self.confidence(endpoint_id)
            found.append(
                HolderInfo(
                    endpoint_id, 0, [], view.block_size, gpu, cpu, disk, confidence=sure, skipped=dict(view.counts)
                )
            )
        return found

    def _refresh(self) -> None:
        now = self._clock.now()
        if now >= self._due:
            self._due = now + REFRESH
            self._trust.clear()
            self.index.expire(now)


def _slower(found: MatchResult, size: int, endpoints: Sequence[Endpoint]) -> dict[int, tuple[int, int]]:
    """Tokens matched in CPU memory and on disk, by slot, where there are any."""
    tiers = {endpoint.slot: found.tiers(endpoint.slot)[1:] for endpoint in endpoints}
    return {slot: (cpu * size, disk * size) for slot, (cpu, disk) in tiers.items() if cpu or disk}


def _adapter(request: InferenceRequest, endpoints: Sequence[Endpoint]) -> str | None:
    """The LoRA adapter a request is for, None for a base model."""
    name = request.target_model or request.model
    return name if any(endpoint.metrics.lora.knows(name) for endpoint in endpoints) else None
