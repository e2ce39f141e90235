"""Cost: bringing the adapter that a request asks for onto the device."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Sequence
from typing import Annotated

from msgspec import Meta

from pointsman.api.endpoint import MODEL_LABEL, Endpoint
from pointsman.api.request import InferenceRequest
from pointsman.api.result import SchedulingResult
from pointsman.framework.plugin import CostScorer, EndpointObserver, Params, PickObserver, register
from pointsman.framework.state import CycleState


class AdapterLoadCostParams(Params, frozen=True):
    """Parameters of ``adapter-load-cost``."""

    load_ms: Annotated[
        float,
        Meta(
            ge=0,
            description="Copying an adapter to the device, milliseconds. The default is an assumption: 1 GB over PCIe "
            "at 20 GB/s.",
        ),
    ] = 50.0
    full_ms: Annotated[
        float,
        Meta(
            ge=0,
            description="Charged in addition where every slot is in use by running requests, milliseconds: the request "
            "waits until one of these adapters has none left.",
        ),
    ] = 1000.0


@register("adapter-load-cost")
class AdapterLoadCost(CostScorer[AdapterLoadCostParams], PickObserver, EndpointObserver):
    """Nothing where the adapter is, or was not long ago; nothing anywhere without LoRA.

    Gauges name the adapters of running and waiting requests only. An engine keeps idle ones as well, until it needs the
    slot: so the last adapters that were sent to an endpoint, as many as it has slots, are taken to be there.
    """

    formula = "0 if the adapter is there, else loadMs; fullMs more if adapters of requests there take every slot"
    inputs = "request model, label model-id, models of /v1/models, scraped LoRA state, own picks"

    def setup(self) -> None:
        self._sent: dict[int, OrderedDict[str, None]] = {}  # by slot, least recently sent first

    def cost(self, request: InferenceRequest, endpoints: Sequence[Endpoint], state: CycleState) -> Sequence[float]:
        if not any(endpoint.metrics.lora.capacity for endpoint in endpoints):
            return [0.0] * len(endpoints)
        model = request.target_model or request.model
        return [self._one(endpoint, model) for endpoint in endpoints]

    def picked(self, request: InferenceRequest, result: SchedulingResult, state: CycleState) -> None:
        if not result.targets:
            return
        self._note(result.chosen, request.target_model or request.model)
        if result.prefiller is not None:
            self._note(result.prefiller, request.target_model or request.model)

    def endpoint_removed(self, endpoint: Endpoint) -> None:
        self._sent.pop(endpoint.slot, None)

    def _one(self, endpoint: Endpoint, model: str) -> float:
        lora = endpoint.metrics.lora
        if not lora.capacity or model in lora.running or _is_base(endpoint, model):
            return 0.0
        # Adapters that requests wait for are about to take the slots that fall free.
        full = len(lora.running | lora.waiting if lora.waiting else lora.running) >= lora.capacity
        if not full and model in self._sent.get(endpoint.slot, ()):
            return 0.0
        return self.params.load_ms + (self.params.full_ms if full else 0.0)

    def _note(self, endpoint: Endpoint, model: str) -> None:
        capacity = endpoint.metrics.lora.capacity
        if not capacity or _is_base(endpoint, model):
            return
        sent = self._sent.setdefault(endpoint.slot, OrderedDict())
        sent[model] = None
        sent.move_to_end(model)
        while len(sent) > capacity:
            sent.popitem(last=False)


def _is_base(endpoint: Endpoint, model: str) -> bool:
    """Whether the endpoint has the model without an adapter."""
    return not model or endpoint.labels.get(MODEL_LABEL) == model or model in endpoint.metrics.models
