from __future__ import annotations

from typing import Any

import msgspec
import pytest
from tests.builders import make_endpoint, make_endpoints, make_handle, make_plugin, make_request

from pointsman.api.endpoint import InflightLoad
from pointsman.framework.keys import LatencyPrediction, PrefixMatch, latency_prediction_key, prefix_match_key
from pointsman.framework.state import CycleState
from pointsman.plugins.scorers.latency import Latency

BUSY: dict[int | str, InflightLoad] = {slot: InflightLoad(requests=1) for slot in range(4)}
Rooms = list[tuple[float, float] | None]


def scores(rooms: Rooms, loads: dict[int | str, InflightLoad] | None = None, **parameters: Any) -> list[float]:
    state = CycleState()
    found = {slot: LatencyPrediction(1, 1, *room) for slot, room in enumerate(rooms) if room}
    state.write(latency_prediction_key(), found)
    plugin = make_plugin(Latency, make_handle(BUSY if loads is None else loads), **parameters)
    return list(plugin.score(make_request(), make_endpoints(len(rooms)), state))


@pytest.mark.parametrize(
    ("rooms", "parameters", "expected"),
    [
        # Scaled 0, 0.5, 1 in both: 101 (capped), 51 and 1 hundredths.
        ([(100, 10), (200, 20), (300, 30)], {}, [1.0, 0.51, 0.01]),
        ([(100, 10), (200, 20), (300, 30)], {"headroomSelectionStrategy": "most"}, [0.01, 0.51, 1.0]),
        # 0.8·1 + 0.2·0 = 0.8 and 0.8·0 + 0.2·1 = 0.2
        ([(300, 10), (100, 30)], {}, [0.21, 0.81]),
        ([(300, 10), (100, 30)], {"ttftWeight": 1, "tpotWeight": 3}, [0.76, 0.26]),
        ([(100, 10), (100, 30)], {}, [1.0, 0.01]),  # one headroom alike: the other alone counts
        ([(100, 10), (300, 10)], {}, [1.0, 0.01]),
        ([(100, 10), (100, 10)], {}, [0.51, 0.51]),
        # Who misses an objective, or has no prediction, gets nothing beside one who meets both.
        ([(100, 10), (-1, 10), (100, -1), None], {}, [0.51, 0.0, 0.0, 0.0]),
    ],
)
def test_meeting_objectives(rooms: Rooms, parameters: dict[str, Any], expected: list[float]) -> None:
    assert scores(rooms, **parameters) == pytest.approx(expected)


@pytest.mark.parametrize(
    ("rooms", "expected"),
    [
        ([(-100, -10), (-300, -30)], [1.0, 0.01]),  # the smaller miss
        ([(100, -10), (-1, 10), (-1, -1)], [0.51, 0.0, 0.0]),  # only the time per token
        ([(-100, 10), (-300, 10), (-1, -1)], [1.0, 0.01, 0.0]),  # only the first token
    ],
)
@pytest.mark.parametrize("strategy", ["least", "most"])
def test_missing_objectives(rooms: Rooms, expected: list[float], strategy: str) -> None:
    assert scores(rooms, headroomSelectionStrategy=strategy) == pytest.approx(expected)


def test_idle_endpoints_come_first_when_all_miss() -> None:
    loads: dict[int | str, InflightLoad] = {0: InflightLoad(requests=2)}
    assert scores([(1, -1), (-900, -90), (-800, -80)], loads) == pytest.approx([0.0, 0.01, 1.0])


@pytest.mark.parametrize(
    ("parameters", "expected"),
    [
        # KV free 0.5 and 1; queue (4 - 4)/4 and (4 - 1)/4; prefix 0.9 and 0.
        ({}, [(0.5 + 0 + 0.9) / 3, (1 + 0.75 + 0) / 3]),
        ({"compositeKVWeight": 0, "compositeQueueWeight": 3}, [0.9 / 4, 2.25 / 4]),
    ],
)
def test_without_predictions(parameters: dict[str, Any], expected: list[float]) -> None:
    state = CycleState()
    match = PrefixMatch(block_tokens=64, total_blocks=10, blocks=(9,))
    state.write(prefix_match_key("approx-prefix-cache-producer"), match)
    endpoints = [make_endpoint(0, kv_usage=0.5, waiting=4), make_endpoint(1, waiting=1)]
    plugin = make_plugin(Latency, **parameters)
    assert plugin.score(make_request(), endpoints, state) == pytest.approx(expected)


def test_brings_what_it_reads() -> None:
    types = [spec.type for spec in make_plugin(Latency).requires()]
    assert types == ["predicted-latency-producer", "approx-prefix-cache-producer"]


@pytest.mark.parametrize(
    ("parameters", "message"),
    [
        ({"ttftWeight": 0, "tpotWeight": 0}, "ttftWeight and tpotWeight are both 0"),
        ({"compositeKVWeight": 0, "compositeQueueWeight": 0, "compositePrefixWeight": 0}, "are all 0"),
        ({"headroomSelectionStrategy": "some"}, "headroomSelectionStrategy"),
    ],
)
def test_refuses(parameters: dict[str, Any], message: str) -> None:
    with pytest.raises(msgspec.ValidationError, match=message):
        make_plugin(Latency, **parameters)
