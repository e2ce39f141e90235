"""Sends prompts to endpoints whose label says that they are for prompts of that length."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import lru_cache
from typing import Annotated

from msgspec import Meta

from pointsman.api.endpoint import Endpoint
from pointsman.api.request import InferenceRequest
from pointsman.framework.plugin import Filter, Params, Scorer, register
from pointsman.framework.state import CycleState

NEUTRAL = 0.5
OUTSIDE = 0.3
"""Bound between the scores of endpoints in and out of range."""

Range = tuple[int, int]


class ContextLengthAwareParams(Params, frozen=True):
    """Parameters of ``context-length-aware``, as in llm-d."""

    label: Annotated[
        str, Meta(min_length=1, description="Label with the prompt tokens an endpoint is for, as min-max: 0-2048.")
    ] = "llm-d.ai/context-length-range"
    enable_filtering: Annotated[bool, Meta(description="Also take out endpoints whose range does not fit.")] = False


@register("context-length-aware")
class ContextLengthAware(Filter[ContextLengthAwareParams], Scorer[ContextLengthAwareParams]):
    """Filter and scorer in one. A label that is no range is ignored, and counted: a typing error costs no pod."""

    formula = (
        "in range 0.3 + 0.7·(0.7/(1 + width/10000) + 0.3·(max - tokens)/width), 1 if width is 0; "
        "else 0.3/(1 + distance/1000); without the label 0.5"
    )
    inputs = "label of the endpoint, prompt length in tokens"

    def setup(self) -> None:
        self._bad_labels = 0

    def stats(self) -> Mapping[str, int]:
        return {"bad-labels": self._bad_labels}

    def filter(self, request: InferenceRequest, endpoints: Sequence[Endpoint], state: CycleState) -> Sequence[Endpoint]:
        if not self.params.enable_filtering:
            return endpoints
        tokens = request.prompt_tokens
        ranges = [self._range(endpoint) for endpoint in endpoints]
        return [e for e, found in zip(endpoints, ranges, strict=True) if not found or found[0] <= tokens <= found[1]]

    def score(self, request: InferenceRequest, endpoints: Sequence[Endpoint], state: CycleState) -> Sequence[float]:
        ranges = [self._range(endpoint) for endpoint in endpoints]
        return [_fit(request.prompt_tokens, found) if found else NEUTRAL for found in ranges]

    def _range(self, endpoint: Endpoint) -> Range | None:
        text = endpoint.labels.get(self.params.label)
        if text is None:
            return None
        found = _parse(text)
        self._bad_labels += found is None
        return found


@lru_cache(maxsize=1024)
def _parse(text: str) -> Range | None:
    parts = [part.strip() for part in text.split("-")]
    if len(parts) != 2 or not all(part.isascii() and part.isdigit() and len(part) < 16 for part in parts):
        return None
    low, high = map(int, parts)
    return (low, high) if low <= high else None


def _fit(tokens: int, found: Range) -> float:
    low, high = found
    if not low <= tokens <= high:
        return OUTSIDE / (1 + max(low - tokens, tokens - high) / 1000)
    width = high - low
    if not width:
        return 1.0
    return OUTSIDE + (1 - OUTSIDE) * (0.7 / (1 + width / 10_000) + 0.3 * (high - tokens) / width)
