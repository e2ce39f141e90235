from __future__ import annotations

from collections import Counter
from typing import Any

import msgspec
import pytest
from tests.builders import make_endpoint, make_plugin, make_request, make_result

from pointsman.api.result import ProfileRunResult, SchedulingResult
from pointsman.framework.keys import PrefixMatch, prefix_match_key
from pointsman.framework.state import CycleState
from pointsman.plugins.producers.p2p_source import P2pSourceProducer

PODS = [make_endpoint(slot, waiting=waiting) for slot, waiting in enumerate([0, 0, 1, 3])]


def headers(
    blocks: list[int], chosen: int, prefiller: int | None = None, identity: str = "r", **parameters: Any
) -> str:
    producer = make_plugin(P2pSourceProducer, **parameters)
    state = CycleState()
    state.write(prefix_match_key("approx-prefix-cache-producer"), PrefixMatch(64, 10, blocks))
    request = make_request(id=identity, prompt_tokens=640)
    producer.produce(request, PODS, state)
    state.seal()
    result = make_result(PODS[chosen])
    if prefiller is not None:
        run = ProfileRunResult("prefill", (PODS[prefiller],))
        result = SchedulingResult("default", {**result.profiles, "prefill": run}, {"prefill": "prefill"})
    found = producer.request_headers(request, result, state)
    assert set(found) <= {"x-kv-cache-source-host-port"}
    return found.get("x-kv-cache-source-host-port", "")


@pytest.mark.parametrize(
    ("blocks", "chosen", "prefiller", "delta", "expected"),
    [
        ([0, 5], 0, None, 1, "10.0.0.1:8000"),
        ([0, 5], 1, None, 1, ""),  # it has them itself
        ([0, 0], 0, None, 1, ""),
        ([2, 5], 0, None, 192, "10.0.0.1:8000"),  # 3 blocks of 64
        ([2, 5], 0, None, 193, ""),
        ([0, 5], 1, 0, 1, "10.0.0.1:8000"),  # who prefills counts, not who decodes
        ([0, 5], 0, 1, 1, ""),
    ],
)
def test_source(blocks: list[int], chosen: int, prefiller: int | None, delta: int, expected: str) -> None:
    assert headers(blocks, chosen, prefiller, minCachedTokenDelta=delta) == expected


def test_ties_by_waiting_requests() -> None:
    # 1/(1+0), 1/(1+1), 1/(1+3): of 7 parts 4, 2 and 1
    counts = Counter(headers([0, 9, 9, 9], 0, identity=f"request-{i}") for i in range(1400))
    assert counts["10.0.0.1:8000"] == pytest.approx(800, abs=100)
    assert counts["10.0.0.2:8000"] == pytest.approx(400, abs=80)
    assert counts["10.0.0.3:8000"] == pytest.approx(200, abs=60)


def test_delta_of_nothing_is_refused() -> None:
    with pytest.raises(msgspec.ValidationError, match="minCachedTokenDelta"):
        make_plugin(P2pSourceProducer, minCachedTokenDelta=0)
