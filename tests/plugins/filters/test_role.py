from __future__ import annotations

from typing import Any

import pytest
from tests.builders import make_endpoint, make_plugin, make_request, make_state

from pointsman.framework.plugin import Filter
from pointsman.plugins.filters.role import DecodeFilter, EncodeFilter, PrefillFilter

ROLES = ["encode", "prefill", "decode", "encode-prefill", "prefill-decode", "both", "encode-prefill-decode", "other"]


@pytest.mark.parametrize(
    ("cls", "kept"),
    [
        (EncodeFilter, ["encode", "encode-prefill", "encode-prefill-decode"]),
        (PrefillFilter, ["prefill", "encode-prefill", "prefill-decode", "both", "encode-prefill-decode"]),
        (DecodeFilter, ["decode", "prefill-decode", "both", "encode-prefill-decode", None]),
    ],
)
def test_table(cls: type[Filter[Any]], kept: list[str | None]) -> None:
    endpoints = [make_endpoint(slot, labels={"llm-d.ai/role": role}) for slot, role in enumerate(ROLES)]
    endpoints.append(make_endpoint(len(ROLES)))
    result = make_plugin(cls).filter(make_request(), endpoints, make_state())
    assert [endpoint.labels.get("llm-d.ai/role") for endpoint in result] == kept
    assert cls.mandatory, "not even the fallback may send a decode to an endpoint that cannot"
