from __future__ import annotations

from typing import Annotated

from msgspec import Meta

from pointsman.framework.plugin import Params


class PickerParams(Params, frozen=True):
    """Parameters that every picker of llm-d has."""

    max_num_of_endpoints: Annotated[
        int,
        Meta(
            ge=1,
            description="Accepted for llm-d's sake, without effect: pickers rank every candidate, and how many go to "
            "the proxy as fallbacks is set for the whole picker.",
        ),
    ] = 1
