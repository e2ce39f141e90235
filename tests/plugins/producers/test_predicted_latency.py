from __future__ import annotations

from collections.abc import Mapping

import msgspec
import pytest
from tests.builders import make_endpoints, make_handle, make_plugin, make_request

from pointsman.api.endpoint import InflightLoad
from pointsman.framework.keys import LatencyPrediction, PrefixMatch, latency_prediction_key, prefix_match_key
from pointsman.framework.state import CycleState
from pointsman.latency.model import LatencyModel
from pointsman.plugins.producers.predicted_latency import PredictedLatencyProducer

# 1 ms a token and 10 per prefill; a step takes 5 ms, 2 per request and 0.01 per token of context.
COST = LatencyModel(
    prefill_base=10,
    prefill_per_token=1,
    prefill_per_token_pair=0,
    prefill_per_cached_pair=0,
    decode_base=5,
    decode_per_request=2,
    decode_per_context_token=0.01,
)


def predict(ttft: float | None = None, tpot: float | None = None, factor: float = 1) -> Mapping[int, LatencyPrediction]:
    loads: dict[int | str, InflightLoad] = {1: InflightLoad(requests=4, decoding=2, context_tokens=800, prefill_ms=500)}
    state = CycleState()
    match = PrefixMatch(block_tokens=10, total_blocks=10, blocks=(0, 6))
    state.write(prefix_match_key("approx-prefix-cache-producer"), match)
    plugin = make_plugin(PredictedLatencyProducer, make_handle(loads, cost=COST), sloBufferFactor=factor)
    plugin.produce(make_request(prompt_tokens=100, slo_ttft_ms=ttft, slo_tpot_ms=tpot), make_endpoints(2), state)
    return state.read(latency_prediction_key())


# Empty and without the prompt: 10 + 100 ms, then 5 + 2·1 + 0.01·100 = 8. Busy, with 60 tokens: 500 + 10 + 40, then
# 5 + 2·3 + 0.01·(400 + 100) = 16, where 400 is the context of the two of four that decode.
@pytest.mark.parametrize(
    ("objectives", "rooms"),
    [
        ((None, None), [(-110, -8), (-550, -16)]),
        ((200, 10), [(90, 2), (-350, -6)]),
        ((200, None), [(90, 0), (-350, 0)]),
        ((None, 10), [(0, 2), (0, -6)]),
    ],
)
def test_table(objectives: tuple[float | None, float | None], rooms: list[tuple[float, float]]) -> None:
    found = predict(*objectives)
    assert [(found[slot].ttft_ms, found[slot].tpot_ms) for slot in (0, 1)] == [(110, 8), (550, 16)]
    assert [(found[slot].ttft_headroom_ms, found[slot].tpot_headroom_ms) for slot in (0, 1)] == rooms


def test_buffer() -> None:
    assert predict(200, 10, factor=0.5)[0].ttft_headroom_ms == -10


def test_accepts_llmds_parameters() -> None:
    plugin = make_plugin(PredictedLatencyProducer, contextTTL="5m", streamingMode=True, predictInProduce=False)
    assert plugin.produces() == (latency_prediction_key(),)
    assert [spec.type for spec in plugin.requires()] == ["approx-prefix-cache-producer"]
    with pytest.raises(msgspec.ValidationError, match="sloBufferFactor"):
        make_plugin(PredictedLatencyProducer, sloBufferFactor=0)
