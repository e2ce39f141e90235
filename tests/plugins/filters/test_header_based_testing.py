from __future__ import annotations

import pytest
from tests.builders import make_endpoint, make_plugin, make_request, make_state

from pointsman.api.endpoint import Endpoint, EndpointId
from pointsman.plugins.filters.header_based_testing import SELECTION_HEADER, HeaderBasedTesting

PODS = [make_endpoint(1), make_endpoint(2), Endpoint(EndpointId("default/pod-2-rank-1"), "10.0.0.2", 8002, slot=3)]


@pytest.mark.parametrize(
    ("header", "kept"),
    [
        (None, [1, 2, 3]),
        ("", [1, 2, 3]),
        (" , ", [1, 2, 3]),
        ("10.0.0.1", [1]),
        ("10.0.0.2", [2, 3]),
        ("10.0.0.2:8002", [3]),
        ("10.0.0.2:8002 ,10.0.0.1", [1, 3]),
        ("10.0.0.1:8001", []),
        ("192.168.9.9", []),
        ("192.168.9.9,10.0.0.1:8000", [1]),
    ],
)
def test_selection(header: str | None, kept: list[int]) -> None:
    headers = {} if header is None else {SELECTION_HEADER: header}
    plugin = make_plugin(HeaderBasedTesting)
    assert [pod.slot for pod in plugin.filter(make_request(headers=headers), PODS, make_state())] == kept
