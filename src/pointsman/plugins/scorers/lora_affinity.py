"""llm-d's rating of endpoints by adapter."""

from __future__ import annotations

from collections.abc import Sequence

from pointsman.api.endpoint import Endpoint
from pointsman.api.request import InferenceRequest
from pointsman.framework.plugin import Params, Scorer, register
from pointsman.framework.state import CycleState


class LoraAffinityParams(Params, frozen=True):
    """``lora-affinity-scorer`` takes no parameters."""


@register("lora-affinity-scorer")
class LoraAffinity(Scorer[LoraAffinityParams]):
    """As in llm-d, a base model is rated like an adapter that is not loaded: alike on endpoints alike."""

    formula = "1 if the adapter runs, 0.8 if running + waiting adapters < max, 0.6 if it waits, else 0"
    inputs = "request model, scraped LoRA state"

    def score(self, request: InferenceRequest, endpoints: Sequence[Endpoint], state: CycleState) -> Sequence[float]:
        model = request.target_model or request.model
        return [_affinity(endpoint, model) for endpoint in endpoints]


def _affinity(endpoint: Endpoint, model: str) -> float:
    lora = endpoint.metrics.lora
    if model in lora.running:
        return 1.0
    if len(lora.running) + len(lora.waiting) < lora.capacity:
        return 0.8
    return 0.6 if model in lora.waiting else 0.0
