from __future__ import annotations

from typing import Any

import msgspec
import pytest
from tests.builders import make_endpoint, make_plugin, make_request, make_state

from pointsman.plugins.filters.label_selector import ByLabel, ByLabelSelector, LabelSelector

ENDPOINTS = [
    make_endpoint(0),
    make_endpoint(1, labels={"gpu": "H100"}),
    make_endpoint(2, labels={"gpu": "H100", "zone": "a"}),
    make_endpoint(3, labels={"gpu": "A100", "zone": "b"}),
]


def expression(operator: str, *values: str, key: str = "gpu") -> dict[str, Any]:
    return {"key": key, "operator": operator, "values": list(values)}


@pytest.mark.parametrize("cls", [LabelSelector, ByLabelSelector])
@pytest.mark.parametrize(
    ("parameters", "kept"),
    [
        ({}, [0, 1, 2, 3]),
        ({"matchLabels": {"gpu": "H100"}}, [1, 2]),
        ({"matchLabels": {"gpu": "H100", "zone": "a"}}, [2]),
        ({"matchLabels": {"gpu": "none"}}, []),
        ({"matchExpressions": [expression("In", "A100", "B200")]}, [3]),
        ({"matchExpressions": [expression("NotIn", "A100")]}, [0, 1, 2]),
        ({"matchExpressions": [expression("Exists", key="zone")]}, [2, 3]),
        ({"matchExpressions": [expression("DoesNotExist", key="zone")]}, [0, 1]),
        ({"matchExpressions": [expression("Exists"), expression("NotIn", "b", key="zone")]}, [1, 2]),
        ({"matchLabels": {"zone": "b"}, "matchExpressions": [expression("In", "H100")]}, []),
    ],
)
def test_selector(cls: type[LabelSelector], parameters: dict[str, Any], kept: list[int]) -> None:
    result = make_plugin(cls, **parameters).filter(make_request(), ENDPOINTS, make_state())
    assert [endpoint.slot for endpoint in result] == kept


@pytest.mark.parametrize(
    ("requirement", "message"),
    [
        (expression("In"), "values must hold at least one for In"),
        (expression("NotIn"), "values must hold at least one for NotIn"),
        (expression("Exists", "a"), "values must be empty for Exists"),
        (expression("Gt", "1"), "operator"),
        ({"operator": "Exists"}, "key"),
    ],
)
def test_refuses_what_kubernetes_refuses(requirement: dict[str, Any], message: str) -> None:
    with pytest.raises(msgspec.ValidationError, match=message):
        make_plugin(LabelSelector, matchExpressions=[requirement])


@pytest.mark.parametrize(
    ("parameters", "kept"),
    [
        ({"validValues": ["H100"]}, [1, 2]),
        ({"validValues": ["H100"], "allowsNoLabel": True}, [0, 1, 2]),
        ({"validValues": ["B200"]}, []),
        ({"allowsNoLabel": True}, [0]),
    ],
)
def test_by_label(parameters: dict[str, Any], kept: list[int]) -> None:
    result = make_plugin(ByLabel, label="gpu", **parameters).filter(make_request(), ENDPOINTS, make_state())
    assert [endpoint.slot for endpoint in result] == kept


@pytest.mark.parametrize(
    ("parameters", "message"), [({"validValues": ["a"]}, "label must be given"), ({"label": "gpu"}, "validValues")]
)
def test_by_label_refuses(parameters: dict[str, Any], message: str) -> None:
    with pytest.raises(msgspec.ValidationError, match=message):
        make_plugin(ByLabel, **parameters)
