"""Rates endpoints by whether the adapter asked for is loaded."""

from __future__ import annotations

from collections.abc import Sequence

from pointsman.api.endpoint import MODEL_LABEL, Endpoint
from pointsman.api.request import InferenceRequest
from pointsman.framework.plugin import Params, Scorer, register
from pointsman.framework.state import CycleState


class LoraAwareParams(Params, frozen=True):
    """``lora-aware`` takes no parameters."""


@register("lora-aware")
class LoraAware(Scorer[LoraAwareParams]):
    """Keeps adapters where they are, so that not every endpoint ends up loading every one of them.

    A request asks for an adapter when no candidate has its model as base model and at least one candidate knows the
    name as an adapter or has LoRA on at all.
    """

    formula = "1 if the adapter is loaded, 0.5 if a slot is free, else 0; 0 for all when no adapter is asked for"
    inputs = "request model, label model-id, models of /v1/models, scraped LoRA state"

    def score(self, request: InferenceRequest, endpoints: Sequence[Endpoint], state: CycleState) -> Sequence[float]:
        model = request.target_model or request.model
        if not model or not _is_adapter(model, endpoints):
            return [0.0] * len(endpoints)
        return [_readiness(endpoint, model) for endpoint in endpoints]


def _is_adapter(model: str, endpoints: Sequence[Endpoint]) -> bool:
    if any(endpoint.labels.get(MODEL_LABEL) == model or model in endpoint.metrics.models for endpoint in endpoints):
        return False
    loras = [endpoint.metrics.lora for endpoint in endpoints]
    return any(lora.capacity > 0 or lora.knows(model) for lora in loras)


def _readiness(endpoint: Endpoint, adapter: str) -> float:
    lora = endpoint.metrics.lora
    if adapter in lora.running:
        return 1.0
    # An adapter that requests wait for is about to take a slot.
    return 0.5 if len(lora.running | lora.waiting) < lora.capacity else 0.0
