"""Cost: copying cached blocks back to the GPU from slower memory."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated

from msgspec import Meta

from pointsman.api.endpoint import Endpoint
from pointsman.api.request import InferenceRequest
from pointsman.framework.keys import PRECISE_PREFIX_PRODUCER, PrefixMatch, prefix_match_key
from pointsman.framework.plugin import CostScorer, Params, register
from pointsman.framework.state import CycleState, StateKey
from pointsman.plugins.scorers._prefix import ProducerName, prefix_match

_Speed = Annotated[float, Meta(gt=0)]


class TierCopyCostParams(Params, frozen=True):
    """Parameters of ``tier-copy-cost``."""

    kv_bytes_per_token: Annotated[
        int,
        Meta(
            ge=1,
            description="Keys and values of one token on all GPUs of an endpoint, bytes: 2 x layers x KV heads x head "
            "size x bytes per number. The default is Qwen3-32B's in BF16.",
        ),
    ] = 262_144
    cpu_gb_per_s: Annotated[
        _Speed,
        Meta(
            description="Copying from CPU memory, 10^9 bytes per second, all GPUs of an endpoint together. The default "
            "is an assumption: PCIe, not its peak."
        ),
    ] = 20.0
    disk_gb_per_s: Annotated[
        _Speed,
        Meta(
            description="Copying from disk or from elsewhere, ditto. The default is an assumption: one NVMe drive. "
            "Slower than prefill is possible: such a hit is no gain, and the sum of costs says so."
        ),
    ] = 5.0
    prefix_match_info_producer_name: ProducerName = PRECISE_PREFIX_PRODUCER


@register("tier-copy-cost")
class TierCopyCost(CostScorer[TierCopyCostParams]):
    """What ``uncached-prefill-cost`` leaves out: cached blocks need no prefill, but not all of them are on the GPU.

    Only producers that hear the engines know tiers; with the approximate one this costs nothing and says nothing.
    """

    formula = "kvBytesPerToken·(tokens in CPU memory / cpuGbPerS + tokens on disk / diskGbPerS) / 10^6"
    inputs = "prefix match of the named producer, by tier"

    def setup(self) -> None:
        bytes_per_token = self.params.kv_bytes_per_token / 1e6
        self._cpu = bytes_per_token / self.params.cpu_gb_per_s
        self._disk = bytes_per_token / self.params.disk_gb_per_s

    def consumes(self) -> tuple[StateKey[PrefixMatch], ...]:
        return (prefix_match_key(self.params.prefix_match_info_producer_name),)

    def cost(self, request: InferenceRequest, endpoints: Sequence[Endpoint], state: CycleState) -> Sequence[float]:
        slower = prefix_match(state, self.params.prefix_match_info_producer_name).slower
        costs = [0.0] * len(endpoints)
        if slower:
            for position, endpoint in enumerate(endpoints):
                in_cpu, on_disk = slower.get(endpoint.slot, (0, 0))
                costs[position] = in_cpu * self._cpu + on_disk * self._disk
        return costs
