"""What scorers that look at a prefix match have in common."""

from __future__ import annotations

from typing import Annotated

from msgspec import Meta

from pointsman.api.request import InferenceRequest
from pointsman.framework.keys import APPROX_PREFIX_PRODUCER, PrefixMatch, prefix_match_key
from pointsman.framework.plugin import PluginSpec
from pointsman.framework.state import CycleState

ProducerName = Annotated[
    str, Meta(min_length=1, description="Name of the producer whose prefix match is read; default the approximate one.")
]

NO_MATCH = PrefixMatch(block_tokens=1, total_blocks=0)
"""Used when the producer failed: a cost must still be found, and nothing cached is the safe guess."""


def required_producers(name: str) -> tuple[PluginSpec, ...]:
    """The approximate producer under its default name.

    A producer of another name has to be configured: it may be of any type, and guessing one would hide a typing error.
    """
    return (PluginSpec(type=APPROX_PREFIX_PRODUCER, name=name),) if name == APPROX_PREFIX_PRODUCER else ()


def prefix_match(state: CycleState, producer: str) -> PrefixMatch:
    """The match that a producer wrote, or none."""
    return state.get(prefix_match_key(producer), NO_MATCH)


def cached_tokens(request: InferenceRequest, match: PrefixMatch, slot: int) -> int:
    """Prompt tokens that need no prefill in ``slot``; never more than the prompt has."""
    return min(match.tokens(slot), request.prompt_tokens)
