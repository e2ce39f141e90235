"""What routers count by themselves: tokens until the first token is seen, and KV blocks of what is in flight."""

from __future__ import annotations

from bisect import bisect_left
from collections import Counter
from collections.abc import Sequence

from pointsman.api.endpoint import EndpointId


class TokensUntilFirst:
    """Uncached prompt tokens sent to each endpoint whose first token was not seen yet.

    Unlike the ledger it knows no clock and no latency model: a prefill is over when its first token passes by.
    """

    def __init__(self) -> None:
        self._totals: Counter[EndpointId] = Counter()
        self._open: dict[str, tuple[EndpointId, int]] = {}

    def of(self, endpoint: EndpointId) -> int:
        """Tokens in flight there."""
        return self._totals[endpoint]

    def enter(self, request_id: str, endpoint: EndpointId, tokens: int) -> None:
        """A request was sent; one of the same name, as clients may send two, is over by that."""
        self.leave(request_id)
        self._open[request_id] = (endpoint, tokens)
        self._totals[endpoint] += tokens

    def leave(self, request_id: str) -> None:
        """Its first token was seen, or it ended without. A second call does nothing."""
        endpoint, tokens = self._open.pop(request_id, (EndpointId(""), 0))
        if tokens:
            self._totals[endpoint] -= tokens

    def forget(self, endpoint: EndpointId) -> None:
        """An endpoint is gone."""
        self._totals.pop(endpoint, None)
        for request_id in [key for key, (where, _) in self._open.items() if where == endpoint]:
            del self._open[request_id]


class ActiveBlocks:
    """Prompt blocks of the requests in flight at each endpoint; one that several requests share counts once.

    Keys are chained, so that with a block all blocks before it are there too: how much of a prompt is active is found
    by bisection, 9 look-ups for 400 blocks.
    """

    def __init__(self) -> None:
        self._blocks: dict[EndpointId, Counter[int]] = {}
        self._open: dict[str, tuple[EndpointId, Sequence[int]]] = {}

    def with_prompt(self, endpoint: EndpointId, keys: Sequence[int]) -> int:
        """Blocks active there if a prompt of these keys came in addition."""
        active = self._blocks.get(endpoint)
        if not active:
            return len(keys)
        shared = bisect_left(keys, True, key=lambda key: key not in active)
        return len(active) + len(keys) - shared

    def enter(self, request_id: str, endpoint: EndpointId, keys: Sequence[int]) -> None:
        """A request was sent; one of the same name is over by that."""
        self.leave(request_id)
        self._open[request_id] = (endpoint, keys)
        self._blocks.setdefault(endpoint, Counter()).update(keys)

    def leave(self, request_id: str) -> None:
        """The request is over. A second call does nothing."""
        endpoint, keys = self._open.pop(request_id, (EndpointId(""), ()))
        active = self._blocks.get(endpoint)
        if active is None:
            return
        for key in keys:
            if active[key] > 1:
                active[key] -= 1
            else:
                del active[key]

    def forget(self, endpoint: EndpointId) -> None:
        """An endpoint is gone."""
        self._blocks.pop(endpoint, None)
        for request_id in [key for key, (where, _) in self._open.items() if where == endpoint]:
            del self._open[request_id]
