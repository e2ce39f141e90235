"""Consistent hashing with bounded loads (CHWBL) on the beginning of the prompt, as KubeAI's ``PrefixHash``.

Source: KubeAI's documentation and load balancer: the model and the first ``prefixCharLength`` characters are hashed on
a ring on which each endpoint has ``replication`` places; from there the first endpoint wins for which

    requests in flight + 1 <= (requests in flight everywhere + 1) / endpoints * meanLoadPercentage / 100

(anything when nothing is in flight), and the first of all when none does. KubeAI takes the first user message of a
chat; here it is the beginning of the whole prompt, and of prompts known as token ids alone as many ids as make up those
characters at 4 characters each.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Iterator, Sequence
from typing import Annotated

from msgspec import Meta
from xxhash import xxh64_intdigest

from pointsman.api.endpoint import EndpointId
from pointsman.api.request import BYTES_PER_TOKEN, InferenceRequest
from pointsman.api.result import ScoredEndpoint
from pointsman.framework.plugin import Params, Picker, register
from pointsman.framework.state import CycleState
from pointsman.kvcache.blocks import pack_token_ids
from pointsman.plugins.pickers._order import chosen_first


class ChwblParams(Params, frozen=True):
    """Parameters of ``chwbl-picker``, named as in KubeAI."""

    prefix_char_length: Annotated[int, Meta(ge=1, description="Leading characters that are hashed.")] = 100
    replication: Annotated[int, Meta(ge=1, le=10_000, description="Places of each endpoint on the ring.")] = 256
    mean_load_percentage: Annotated[int, Meta(ge=100, description="Bound on a load, in percent of the mean.")] = 125


@register("chwbl-picker")
class Chwbl(Picker[ChwblParams]):
    """No index and no gauges: the same beginning goes to the same place until that is too full."""

    formula = (
        "first endpoint from hash(model, beginning) on whose requests + 1 are within meanLoadPercentage of the mean"
    )
    inputs = "beginning of the prompt, ledger of work in flight"

    def setup(self) -> None:
        self._members: frozenset[EndpointId] = frozenset()
        self._ring: list[tuple[int, EndpointId]] = []

    def pick(
        self, request: InferenceRequest, candidates: Sequence[ScoredEndpoint], state: CycleState
    ) -> Sequence[ScoredEndpoint]:
        if not candidates:
            return []
        by_id = {candidate.endpoint.id: candidate for candidate in candidates}
        loads = {endpoint: self.handle.inflight.load(endpoint).requests for endpoint in by_id}
        total = sum(loads.values())
        bound = (total + 1) / len(loads) * self.params.mean_load_percentage / 100
        order = list(self._from(self._key(request), frozenset(by_id)))
        fits = (endpoint for endpoint in order if not total or loads[endpoint] + 1 <= bound)
        return chosen_first(by_id[next(fits, order[0])], candidates)

    def _from(self, key: int, members: frozenset[EndpointId]) -> Iterator[EndpointId]:
        """Each endpoint once, in the order in which a walk along the ring meets them."""
        if members != self._members:
            self._members = members
            places = range(self.params.replication)
            self._ring = sorted(
                (xxh64_intdigest(f"{member}{place}".encode()), member) for member in members for place in places
            )
        ring, met = self._ring, set[EndpointId]()
        start = bisect_left(ring, (key, ""))
        for place in range(len(ring)):
            member = ring[(start + place) % len(ring)][1]
            if member not in met:
                met.add(member)
                yield member
                if len(met) == len(members):
                    return

    def _key(self, request: InferenceRequest) -> int:
        length = self.params.prefix_char_length
        beginning = request.prompt[:length]
        if not beginning and request.token_ids is not None:
            beginning = pack_token_ids(request.token_ids[: max(1, length // BYTES_PER_TOKEN)])
        return xxh64_intdigest(request.target_model.encode(errors="surrogatepass") + b"\0" + beginning)
