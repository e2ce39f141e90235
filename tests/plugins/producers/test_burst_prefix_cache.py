from __future__ import annotations

from typing import Any

from tests.builders import make_endpoints, make_handle, make_plugin, make_request, make_result

from pointsman.clock import ManualClock
from pointsman.framework.keys import prefix_match_key
from pointsman.framework.state import CycleState
from pointsman.plugins.producers.burst_prefix_cache import BurstPrefixCacheProducer

PODS = make_endpoints(3)
PROMPT = "a" * 64 * 4 * 3  # three blocks


class Burst:
    def __init__(self, **parameters: Any) -> None:
        self.clock = ManualClock(100.0)
        self.plugin = make_plugin(BurstPrefixCacheProducer, make_handle(clock=self.clock), **parameters)

    def send(self, prompt: str, else_to: int) -> int | None:
        """Where the producer wants it; it is sent there, or to ``else_to``."""
        request, state = make_request(prompt), CycleState()
        self.plugin.produce(request, PODS, state)
        state.seal()
        match = state.read(prefix_match_key(self.plugin.name))
        wanted = [slot for slot in range(len(PODS)) if match.of(slot)]
        assert len(wanted) <= 1
        assert all(match.of(slot) == match.total_blocks for slot in wanted)
        slot = wanted[0] if wanted else None
        self.plugin.picked(request, make_result(PODS[else_to if slot is None else slot]), state)
        return slot


def test_the_same_prompt_follows_the_first_one_for_a_window() -> None:
    burst = Burst()
    assert burst.send(PROMPT, 1) is None
    assert [burst.send(PROMPT, 0) for _ in range(5)] == [1] * 5
    assert burst.send("b" * 1000, 2) is None
    burst.clock.advance(0.0999)
    assert burst.send(PROMPT, 0) == 1
    burst.clock.advance(0.0002)
    assert burst.send(PROMPT, 0) is None
    assert burst.send(PROMPT, 1) == 0


def test_a_full_endpoint_is_not_followed() -> None:
    burst = Burst(maxPerReplica=2)
    assert [burst.send(PROMPT, 0) for _ in range(2)] == [None, 0]
    assert [burst.send(PROMPT, 2) for _ in range(3)] == [None, 2, None]


def test_prompts_that_share_their_beginning() -> None:
    prompts = [PROMPT + letter * 300 for letter in "bcdef"]
    assert [Burst().send(prompt, 1) for prompt in prompts] == [None] * 5
    burst = Burst(minColocateBlocks=3)
    # after one at pod 1: even share 1/3, and one above it allows another; then 2 > 2/3 + 1
    assert [burst.send(prompt, 1 if i == 0 else 2) for i, prompt in enumerate(prompts[:4])] == [None, 1, None, 2]
    far = Burst(minColocateBlocks=4)
    assert [far.send(prompt, 1) for prompt in prompts[:3]] == [None] * 3


def test_balance_by_tokens() -> None:
    burst = Burst(minColocateBlocks=1, balanceBy="tokens")
    assert burst.send(PROMPT + "b" * 4000, 1) is None
    assert burst.send(PROMPT, 0) is None, "1,192 tokens there are more than 397 and 192 of its own"


def test_short_prompts_and_memory() -> None:
    burst = Burst(maxBatchSize=1)
    assert [burst.send("short", 0) for _ in range(2)] == [None, None]
    burst.send(PROMPT, 0)
    burst.send("b" * 1000, 0)
    assert burst.send(PROMPT, 1) is None


def test_a_gone_endpoint_is_not_followed() -> None:
    burst = Burst()
    burst.send(PROMPT, 1)
    burst.plugin.endpoint_removed(PODS[1])
    assert burst.send(PROMPT, 0) is None
