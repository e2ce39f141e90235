"""The prefix match to go by where the user names no producer: the best one that was written."""

from __future__ import annotations

from typing import Any

from pointsman.framework.keys import (
    APPROX_PREFIX_PRODUCER,
    PRECISE_PREFIX_PRODUCER,
    REMOTE_PREFIX_PRODUCER,
    PrefixMatch,
    prefix_match_key,
)
from pointsman.framework.plugin import PluginSpec
from pointsman.framework.state import CycleState, StateKey

_BEST_FIRST = tuple(
    prefix_match_key(name) for name in (PRECISE_PREFIX_PRODUCER, REMOTE_PREFIX_PRODUCER, APPROX_PREFIX_PRODUCER)
)
_NONE = PrefixMatch(block_tokens=1, total_blocks=0)


def match_producers(name: str) -> tuple[PluginSpec, ...]:
    """What to build for it: the approximate producer, unless another one is named."""
    if name not in ("", APPROX_PREFIX_PRODUCER):
        return ()
    return (PluginSpec(APPROX_PREFIX_PRODUCER, APPROX_PREFIX_PRODUCER),)


def match_consumed(name: str) -> tuple[StateKey[Any], ...]:
    """What must be there for it. The better ones are read when they are there, once all producers have run."""
    return (prefix_match_key(name or APPROX_PREFIX_PRODUCER),)


def best_match(state: CycleState, name: str) -> PrefixMatch:
    """The named producer's match, else the best one written; an empty one when there is none."""
    if name:
        return state.get(prefix_match_key(name), _NONE)
    return next((match for key in _BEST_FIRST if (match := state.get(key)) is not None), _NONE)
