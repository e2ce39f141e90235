import random

import msgspec
import pytest

from pointsman.sim.tokens import text_tokens
from pointsman.sim.workload import brief_workload, chat_body, poisson_arrivals


def test_groups_share_a_system_text_of_the_asked_length() -> None:
    prompts = brief_workload(groups=3, variants=2, system_tokens=600, question_tokens=20, output_tokens=7, seed=1)
    assert [(p.group, p.variant) for p in prompts] == [(0, 0), (0, 1), (1, 0), (1, 1), (2, 0), (2, 1)]
    assert len({p.system for p in prompts}) == 3
    assert len({p.user for p in prompts}) == 6
    assert {len(text_tokens(p.system)) for p in prompts} == {600}
    assert {len(text_tokens(p.user)) for p in prompts} == {20}
    assert all(p.system.isascii() and p.output_tokens == 7 for p in prompts)


def test_a_group_is_the_same_whatever_else_is_there() -> None:
    assert brief_workload(groups=3, variants=2, seed=5)[2] == brief_workload(groups=2, variants=2, seed=5)[2]
    assert brief_workload(groups=1, variants=1, seed=5) != brief_workload(groups=1, variants=1, seed=6)


def test_arrivals_come_at_the_rate() -> None:
    arrivals = poisson_arrivals(20.0, 4000, random.Random(1))
    assert arrivals == sorted(arrivals)
    assert arrivals[-1] == pytest.approx(200.0, rel=0.1)
    with pytest.raises(ValueError, match="above 0"):
        poisson_arrivals(0, 1, random.Random(1))


def test_the_body_is_a_chat_completion() -> None:
    prompt = brief_workload(groups=1, variants=1, system_tokens=10, question_tokens=5, output_tokens=9)[0]
    body = msgspec.json.decode(chat_body(prompt, "m"))
    assert body["messages"][0] == {"role": "system", "content": prompt.system}
    assert (body["model"], body["max_tokens"], body["stream"]) == ("m", 9, True)
    assert body["stream_options"] == {"include_usage": True}
    assert "stream_options" not in msgspec.json.decode(chat_body(prompt, "m", stream=False))
