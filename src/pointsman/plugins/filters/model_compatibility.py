"""Takes out endpoints that do not serve the model asked for."""

from __future__ import annotations

from collections.abc import Sequence

from pointsman.api.endpoint import MODEL_LABEL, Endpoint
from pointsman.api.request import InferenceRequest
from pointsman.framework.plugin import Filter, Params, register
from pointsman.framework.state import CycleState


class ModelCompatibilityParams(Params, frozen=True):
    """``model-compatibility`` takes no parameters."""


@register("model-compatibility")
class ModelCompatibility(Filter[ModelCompatibilityParams]):
    """Keeps endpoints that serve the request's model as base model or know it as an adapter.

    An endpoint that says neither which base model it has (label, ``/v1/models``) nor which adapters it answers for is
    kept: nothing says that it cannot. Adapters seen only because they run or wait just now are no such statement; if
    they were, an unlabelled endpoint would vanish for its base model whenever an adapter is busy on it.
    """

    formula = "keep if label model-id = model, or model in /v1/models, or adapter known, or nothing is known"
    mandatory = True
    inputs = "label model-id, models and adapters of /v1/models, scraped LoRA state"

    def filter(self, request: InferenceRequest, endpoints: Sequence[Endpoint], state: CycleState) -> Sequence[Endpoint]:
        model = request.target_model or request.model
        if not model:
            return endpoints
        return [endpoint for endpoint in endpoints if _serves(endpoint, model)]


def _serves(endpoint: Endpoint, model: str) -> bool:
    label, metrics = endpoint.labels.get(MODEL_LABEL), endpoint.metrics
    if label == model or model in metrics.models or metrics.lora.knows(model):
        return True
    return not label and not metrics.models and not metrics.lora.available
