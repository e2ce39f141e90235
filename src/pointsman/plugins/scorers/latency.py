"""llm-d's rating of endpoints by headroom to the latency objectives."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated, Any, Literal

import msgspec
from msgspec import Meta

from pointsman.api.endpoint import Endpoint
from pointsman.api.request import InferenceRequest
from pointsman.framework.gauges import gauges, kv_usage
from pointsman.framework.keys import (
    APPROX_PREFIX_PRODUCER,
    PREDICTED_LATENCY_PRODUCER,
    LatencyPrediction,
    latency_prediction_key,
    prefix_match_key,
)
from pointsman.framework.plugin import Params, PluginSpec, Scorer, register
from pointsman.framework.state import CycleState, StateKey
from pointsman.plugins.producers.predicted_latency import PredictionProducerName, required_predictions
from pointsman.plugins.scorers._prefix import ProducerName, prefix_match, required_producers

_SMALL = 1e-9
_WEIGHT = "Weight of the {} when there are no predictions; only the ratio counts."


class LatencyParams(Params, frozen=True):
    """Parameters of ``latency-scorer``, as in llm-d.

    Raises:
        ValueError: if ``ttftWeight`` and ``tpotWeight``, or the three composite weights, are all 0.
    """

    ttft_weight: Annotated[
        float, Meta(ge=0, description="Weight of the headroom to the first token; only the ratio counts.")
    ] = msgspec.field(name="ttftWeight", default=0.8)
    tpot_weight: Annotated[float, Meta(ge=0, description="Weight of the headroom per further token.")] = msgspec.field(
        name="tpotWeight", default=0.2
    )
    headroom_selection_strategy: Annotated[
        Literal["least", "most"],
        Meta(
            description="Among endpoints that meet the objectives: least = fill up the one nearest to them; most = the "
            "one farthest. Among those that miss them, the nearest is always the best."
        ),
    ] = "least"
    composite_kv_weight: Annotated[float, Meta(ge=0, description=_WEIGHT.format("free share of the KV cache"))] = (
        msgspec.field(name="compositeKVWeight", default=1.0)
    )
    composite_queue_weight: Annotated[float, Meta(ge=0, description=_WEIGHT.format("queue"))] = 1.0
    composite_prefix_weight: Annotated[float, Meta(ge=0, description=_WEIGHT.format("cached prefix"))] = 1.0
    latency_prediction_info_producer_name: PredictionProducerName = PREDICTED_LATENCY_PRODUCER
    prefix_match_info_producer_name: ProducerName = APPROX_PREFIX_PRODUCER

    def __post_init__(self) -> None:
        if not self.ttft_weight + self.tpot_weight:
            raise ValueError("ttftWeight and tpotWeight are both 0")
        if not self.composite_kv_weight + self.composite_queue_weight + self.composite_prefix_weight:
            raise ValueError("compositeKVWeight, compositeQueueWeight and compositePrefixWeight are all 0")


@register("latency-scorer")
class Latency(Scorer[LatencyParams]):
    """Only the best group of endpoints gets points.

    That is: those that meet both objectives, else idle ones, else those that miss only the time per token, else only
    the first token, else both.
    """

    formula = (
        "floor(100·(1 - (w·|ttft headroom| + v·|tpot headroom|))) + 1 hundredths, at most 1, each headroom scaled to "
        "0..1 within the group, (w, v) = ttftWeight, tpotWeight scaled to 1 [most: without the 1 -]; 0 outside it; "
        "without predictions the weighted mean of free KV cache, (max - waiting)/max and cached share"
    )
    inputs = "latency predictions and prefix match of the named producers, ledger, scraped gauges corrected by it"

    def requires(self) -> tuple[PluginSpec, ...]:
        predictions = required_predictions(self.params.latency_prediction_info_producer_name)
        return predictions + required_producers(self.params.prefix_match_info_producer_name)

    def consumes(self) -> tuple[StateKey[Any], ...]:
        predictions = latency_prediction_key(self.params.latency_prediction_info_producer_name)
        return (predictions, prefix_match_key(self.params.prefix_match_info_producer_name))

    def score(self, request: InferenceRequest, endpoints: Sequence[Endpoint], state: CycleState) -> Sequence[float]:
        predictions = state.get(latency_prediction_key(self.params.latency_prediction_info_producer_name), {})
        known = {i: predictions[e.slot] for i, e in enumerate(endpoints) if e.slot in predictions}
        if not known:
            return self._composite(endpoints, state)
        group = {i: found for i, found in known.items() if found.positive}
        nearest = not group or self.params.headroom_selection_strategy == "least"
        if not group:
            load = self.handle.inflight.load
            group = {i: found for i, found in known.items() if not load(endpoints[i].id).requests}
        group = group or _least_missed(known)
        points = self._points(list(group.values()), nearest=nearest)
        scores = [0.0] * len(endpoints)
        for i, value in zip(group, points, strict=True):
            scores[i] = value
        return scores

    def _points(self, group: Sequence[LatencyPrediction], *, nearest: bool) -> list[float]:
        first = _scaled([abs(found.ttft_headroom_ms) for found in group])
        further = _scaled([abs(found.tpot_headroom_ms) for found in group])
        weight = self.params.ttft_weight / (self.params.ttft_weight + self.params.tpot_weight)
        if first is None or further is None:  # all alike in one: it must not flatten the other
            weight = 0.0 if first is None and further is not None else 1.0 if further is None and first else weight
        half = [0.5] * len(group)
        far = [weight * a + (1 - weight) * b for a, b in zip(first or half, further or half, strict=True)]
        return [min(1.0, (int((1 - value if nearest else value) * 100 + _SMALL) + 1) / 100) for value in far]

    def _composite(self, endpoints: Sequence[Endpoint], state: CycleState) -> list[float]:
        params = self.params
        match = prefix_match(state, params.prefix_match_info_producer_name)
        waiting = [gauges(endpoint, self.handle).waiting for endpoint in endpoints]
        most = max(waiting, default=0)
        kv, queue, prefix = params.composite_kv_weight, params.composite_queue_weight, params.composite_prefix_weight
        return [
            (
                kv * (1 - kv_usage(endpoint, self.handle))
                + queue * ((most - count) / most if most else 1.0)
                + prefix * match.share(endpoint.slot)
            )
            / (kv + queue + prefix)
            for endpoint, count in zip(endpoints, waiting, strict=True)
        ]


def _least_missed(known: dict[int, LatencyPrediction]) -> dict[int, LatencyPrediction]:
    """Those that miss the least grave of: time per token only, first token only, both."""
    grave = {i: (found.ttft_headroom_ms < 0) * 2 + (found.tpot_headroom_ms < 0) for i, found in known.items()}
    least = min(grave.values())
    return {i: found for i, found in known.items() if grave[i] == least}


def _scaled(values: Sequence[float]) -> list[float] | None:
    """Values from 0 (smallest) to 1 (largest); None when they are all alike."""
    low, high = min(values), max(values)
    return [(value - low) / (high - low) for value in values] if high - low > _SMALL else None
