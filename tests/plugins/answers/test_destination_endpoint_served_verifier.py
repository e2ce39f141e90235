from __future__ import annotations

import pytest
from tests.builders import make_endpoint, make_plugin, make_request

from pointsman.plugins.answers.destination_endpoint_served_verifier import (
    MISSING,
    SERVED_HEADER,
    DestinationEndpointServedVerifier,
)


@pytest.mark.parametrize(
    ("assume", "served", "said"),
    [
        (False, "10.0.0.9:1", "10.0.0.9:1"),
        (True, "10.0.0.9:1", "10.0.0.9:1"),
        (False, "", MISSING),
        (True, "", "10.0.0.1:8000"),
    ],
)
def test_what_it_says(assume: bool, served: str, said: str) -> None:
    plugin = make_plugin(DestinationEndpointServedVerifier, assumePicked=assume)
    assert plugin.answer_headers(make_request(), make_endpoint(1), served) == {SERVED_HEADER: said}
