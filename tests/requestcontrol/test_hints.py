from __future__ import annotations

import pytest

from pointsman.requestcontrol.hints import NO_HINTS, SYSTEM_OWNED, Hints, owned_headers, read_hints


@pytest.mark.parametrize(
    ("headers", "hints"),
    [
        ({}, NO_HINTS),
        ({":path": "/", "x-llm-d": "no"}, NO_HINTS),
        ({"x-llm-d-inference-fairness-id": "t"}, Hints(fairness_id="t")),
        ({"x-gateway-inference-fairness-id": "old"}, Hints(fairness_id="old")),
        ({"x-llm-d-inference-fairness-id": " ", "x-gateway-inference-fairness-id": "old"}, Hints(fairness_id="old")),
        (
            {"x-llm-d-inference-fairness-id": "new", "x-gateway-inference-fairness-id": "old"},
            Hints(fairness_id="new"),
        ),
        ({"x-gateway-inference-objective": "food-review"}, Hints(objective="food-review")),
        ({"x-llm-d-model-name-rewrite": "m2"}, Hints(rewrite="m2")),
        ({"x-gateway-model-name-rewrite": "m2"}, Hints(rewrite="m2")),
        ({"x-llm-d-slo-ttft-ms": "200", "x-slo-tpot-ms": "12.5"}, Hints(slo_ttft_ms=200.0, slo_tpot_ms=12.5)),
        ({"x-slo-ttft-ms": "soon", "x-slo-tpot-ms": "-1"}, Hints(malformed=2)),
        ({"x-slo-ttft-ms": "nan", "x-slo-tpot-ms": "inf"}, Hints(malformed=2)),
        ({"x-slo-ttft-ms": "", "x-llm-d-slo-tpot-ms": "1e3"}, Hints(slo_tpot_ms=1000.0)),
    ],
)
def test_what_headers_ask_for(headers: dict[str, str], hints: Hints) -> None:
    assert read_hints(headers) == hints


def test_headers_that_only_a_picker_may_set() -> None:
    assert owned_headers({"a": "b"}) == ()
    assert owned_headers({"a": "b", **dict.fromkeys(SYSTEM_OWNED, "x")}) == tuple(sorted(SYSTEM_OWNED))
