"""Deciders: by hand, and that they leave their judgement where a handler finds it."""

from __future__ import annotations

import msgspec
import pytest
from tests.builders import make_endpoint, make_plugin, make_request, make_state

from pointsman.api.request import RequestHead
from pointsman.framework.keys import PrefixMatch, prefix_match_key
from pointsman.framework.state import CycleState
from pointsman.plugins.deciders._decider import judgement_key
from pointsman.plugins.deciders.always_disagg_multimodal import AlwaysDisaggMultimodal
from pointsman.plugins.deciders.always_disagg_pd import AlwaysDisaggPd
from pointsman.plugins.deciders.prefix_based_pd import PrefixBasedPd
from pointsman.requestcontrol.parsers.registry import parse_request

POD = make_endpoint(1)
HELD = make_state(PrefixMatch(block_tokens=64, total_blocks=15, blocks=[0, 10]))  # 640 of 1,000 tokens at POD


@pytest.mark.parametrize(
    ("least", "prompt", "shortest", "wanted"),
    [
        (0, 1000, 0, False),  # off
        (360, 1000, 0, True),  # 1,000 - 640 = 360
        (361, 1000, 0, False),
        (16, 15, 0, False),
        (16, 1000, 1000, True),
        (16, 1000, 1001, False),
        (16, 600, 0, False),  # it holds more than there is
    ],
)
def test_prefix_based(least: int, prompt: int, shortest: int, wanted: bool) -> None:
    decider = make_plugin(PrefixBasedPd, nonCachedTokens=least, promptTokens=shortest)
    assert decider.wanted(make_request(prompt_tokens=prompt), POD, HELD) is wanted


def test_prefix_based_without_knowledge() -> None:
    decider = make_plugin(PrefixBasedPd, nonCachedTokens=100)
    request = make_request(prompt_tokens=100)
    assert decider.wanted(request, POD, make_state()), "nothing known of a cache is nothing cached"
    assert not decider.wanted(request, None, make_state()), "who decodes is not known"


def test_prefix_based_reads_the_best_match_there_is() -> None:
    state = CycleState()
    for producer, blocks in (("approx-prefix-cache-producer", 10), ("precise-prefix-cache-producer", 2), ("own", 15)):
        state.write(prefix_match_key(producer), PrefixMatch(64, 15, [0, blocks]))
    request = make_request(prompt_tokens=1000)
    by_name = {
        name: make_plugin(PrefixBasedPd, nonCachedTokens=800, prefixMatchInfoProducerName=name)
        for name in ("", "approx-prefix-cache-producer", "own")
    }
    assert [plugin.wanted(request, POD, state) for plugin in by_name.values()] == [True, False, False]
    assert [[spec.name for spec in plugin.requires()] for plugin in by_name.values()] == [
        ["approx-prefix-cache-producer"],
        ["approx-prefix-cache-producer"],
        [],
    ]
    assert [key.name for key in by_name["own"].consumes()] == ["prefix-match/own"]


def test_the_judgement_is_left_in_the_state() -> None:
    decider = make_plugin(AlwaysDisaggPd, name="mine")
    state = CycleState()
    decider.produce(make_request(), [POD], state)
    assert state.read(judgement_key("mine"))(make_request(), None, state) is True
    assert decider.produces() == (judgement_key("mine"),)


IMAGE = {"type": "image_url", "image_url": {"url": "data:image/png;base64,AAAA"}}
TEXT = {"type": "text", "text": "what is it?"}


@pytest.mark.parametrize(
    ("path", "body", "wanted"),
    [
        ("/v1/chat/completions", {"messages": [{"role": "user", "content": [TEXT, IMAGE]}]}, True),
        ("/v1/chat/completions", {"messages": [{"role": "user", "content": [TEXT]}]}, False),
        ("/v1/chat/completions", {"messages": [{"role": "user", "content": "a"}]}, False),
        ("/v1/chat/completions", {"messages": [{"role": "user", "content": 'say {"type":"image_url"}'}]}, False),
        (
            "/v1/chat/completions",
            {"messages": [{"role": "user", "content": [{"type": "text", "text": '"type":"image_url"'}]}]},
            False,
        ),
        (
            "/v1/chat/completions",
            {"messages": [{"role": "s", "content": "x" * 300_000}, {"role": "user", "content": [IMAGE]}]},
            True,
        ),
        ("/v1/chat/completions", {"messages": [{"role": "u", "content": [{"type": "input_audio"}]}]}, True),
        ("/v1/chat/completions", {"messages": [{"role": "u", "content": [{"type": "video_url"}]}]}, True),
        (
            "/v1/messages",
            {"max_tokens": 1, "messages": [{"role": "user", "content": [{"type": "image", "source": {}}]}]},
            True,
        ),
        ("/v1/responses", {"input": [{"role": "user", "content": [{"type": "input_image"}]}]}, True),
        ("/v1/completions", {"prompt": "abc"}, False),
        ("/v1/completions", {"prompt": [1, 2, 3]}, False),
    ],
)
def test_multimodal(path: str, body: dict[str, object], wanted: bool) -> None:
    head = RequestHead({":path": path, ":method": "POST"})
    request = parse_request(head, msgspec.json.encode({"model": "m", **body}), request_id="r", arrival=0.0)
    assert make_plugin(AlwaysDisaggMultimodal).wanted(request, None, make_state()) is wanted
