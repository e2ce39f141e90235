from __future__ import annotations

import pytest
from tests.builders import make_endpoint, make_plugin, make_request, make_state

from pointsman.api.endpoint import Endpoint, LoraState
from pointsman.plugins.filters.model_compatibility import ModelCompatibility

ENDPOINTS = [
    make_endpoint(0, model="base"),
    make_endpoint(1, model="base", lora=LoraState(available=frozenset({"sql"}))),
    make_endpoint(2, model="other"),
    make_endpoint(3),
    make_endpoint(4, models=frozenset({"base"})),
    make_endpoint(5, lora=LoraState(available=frozenset({"sql"}))),
    make_endpoint(6, lora=LoraState(running=frozenset({"law"}))),
    make_endpoint(7, model="base", lora=LoraState(waiting=frozenset({"law"}))),
]


@pytest.mark.parametrize(
    ("model", "kept"),
    [
        ("base", [0, 1, 3, 4, 6, 7]),
        ("other", [2, 3, 6]),
        ("sql", [1, 3, 5, 6]),
        ("law", [3, 6, 7]),
        ("unknown", [3, 6]),
        ("", [0, 1, 2, 3, 4, 5, 6, 7]),
    ],
)
def test_keeps_those_that_serve_the_model(model: str, kept: list[int]) -> None:
    assert slots(ENDPOINTS, model) == kept


def test_the_model_sent_on_counts() -> None:
    request = make_request(model="alias", target_model="other")
    result = make_plugin(ModelCompatibility).filter(request, ENDPOINTS, make_state())
    assert [endpoint.slot for endpoint in result] == [2, 3, 6]


def test_not_even_the_fallback_may_use_another_model() -> None:
    assert ModelCompatibility.mandatory


def slots(endpoints: list[Endpoint], model: str) -> list[int]:
    result = make_plugin(ModelCompatibility).filter(make_request(model=model), endpoints, make_state())
    return [endpoint.slot for endpoint in result]
