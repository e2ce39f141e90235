"""The default policy in situations in which routers have gone wrong: the cheap ones of bench/policy_traps.py."""

from __future__ import annotations

import pytest
from policy_traps import TRAPS

CHEAP = ("hot-pod", "idle-fleet", "burst", "avalanche", "adapters", "bare-adapters")


@pytest.mark.parametrize("trap", CHEAP)
def test_the_default_policy_does_not_fall_into_it(trap: str) -> None:
    verdict = TRAPS[trap]("default")
    assert verdict.passed, verdict.number


@pytest.mark.parametrize(
    ("trap", "policy"), [("burst", "llm-d"), ("adapters", "least-request"), ("idle-fleet", "round-robin")]
)
def test_a_trap_catches_a_policy_that_goes_wrong(trap: str, policy: str) -> None:
    verdict = TRAPS[trap](policy)
    assert not verdict.passed, verdict.number
