"""The brief's scorers: prefix-aware, load-aware, lora-aware, and its worked example."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest
from tests.builders import make_endpoint, make_endpoints, make_handle, make_plugin, make_request, make_state

from pointsman.api.endpoint import InflightLoad, LoraState
from pointsman.errors import ConfigError
from pointsman.framework.keys import PrefixMatch
from pointsman.plugins.filters.queue_depth import QueueDepth
from pointsman.plugins.scorers.load_aware import LoadAware
from pointsman.plugins.scorers.lora_aware import LoraAware
from pointsman.plugins.scorers.prefix_aware import PrefixAware


def prefix_state(*blocks: int, total: int = 10) -> Any:
    match = PrefixMatch(block_tokens=5, total_blocks=total, blocks=blocks)
    return make_state(match, "prefix-aware-blocks-5")


class TestPrefixAware:
    def test_share_of_blocks(self) -> None:
        scores = make_plugin(PrefixAware).score(make_request(), make_endpoints(4), prefix_state(0, 5, 10))
        assert scores == [0.0, 0.5, 1.0, 0.0]

    def test_prompt_without_a_block(self) -> None:
        assert make_plugin(PrefixAware).score(make_request(), make_endpoints(2), prefix_state(total=0)) == [0.0, 0.0]

    def test_producer_failed(self) -> None:
        assert make_plugin(PrefixAware).score(make_request(), make_endpoints(1), make_state()) == [0.0]

    def test_another_producer_may_be_named(self) -> None:
        plugin = make_plugin(PrefixAware, prefixMatchInfoProducerName="precise-prefix-cache-producer")
        state = make_state(PrefixMatch(16, 4, [1, 3]), "precise-prefix-cache-producer")
        assert plugin.score(make_request(), make_endpoints(2), state) == [0.25, 0.75]
        assert plugin.requires() == ()

    @pytest.mark.parametrize("size", [3, 5, 20, "auto"])
    def test_brings_its_producer(self, size: int | str) -> None:
        plugin = make_plugin(PrefixAware, hashBlockSize=size)
        (spec,) = plugin.requires()
        assert spec.type == "approx-prefix-cache-producer"
        assert spec.name == f"prefix-aware-blocks-{size}"
        assert spec.parameters == {"blockSizeTokens": size, "minBlockSizeTokens": 1}
        assert [key.name for key in plugin.consumes()] == [f"prefix-match/{spec.name}"]

    def test_with_an_indexer_it_is_asked_and_the_guess_is_for_when_it_does_not_know(self) -> None:
        url = "http://kv-cache-indexer:9090"
        plugin = make_plugin(PrefixAware, cacheIndexerURL=url, hashBlockSize=10, cacheIndexerTimeoutMs=7)
        guess, remote = plugin.requires()
        assert (guess.type, guess.name) == ("approx-prefix-cache-producer", "prefix-aware-blocks-10")
        assert (remote.type, remote.name) == ("remote-prefix-cache-producer", f"prefix-aware-remote-10@{url}")
        assert remote.parameters == {
            "cacheIndexerURL": url,
            "timeoutMs": 7,
            "prefixMatchInfoProducerName": guess.name,
        }
        assert [key.name for key in plugin.consumes()] == [f"prefix-match/{remote.name}"]

    def test_two_sources_are_one_too_many(self) -> None:
        with pytest.raises(ConfigError, match="keep one of them"):
            make_plugin(PrefixAware, cacheIndexerURL="http://x", prefixMatchInfoProducerName="mine")

    @pytest.mark.parametrize("parameters", [{"hashBlockSize": 2}, {"hashBlockSize": 21}, {"hashBlockSize": "big"}])
    def test_refuses(self, parameters: dict[str, Any]) -> None:
        with pytest.raises(msgspec.ValidationError, match="hashBlockSize"):
            make_plugin(PrefixAware, **parameters)


class TestLoadAware:
    @pytest.mark.parametrize(("depth", "points"), [(0, 50), (10, 40), (25, 25), (40, 10), (50, 0), (90, 0)])
    def test_the_briefs_curve(self, depth: int, points: float) -> None:
        endpoints = [make_endpoint(waiting=depth)]
        queue_alone = make_plugin(LoadAware, activeRequestsWeight=0)
        assert 50 * queue_alone.score(make_request(), endpoints, make_state())[0] == pytest.approx(points)
        # As many active as waiting: both parts are the same line, whatever their weights.
        both = make_plugin(LoadAware, make_handle({0: InflightLoad(requests=depth)}))
        assert 50 * both.score(make_request(), endpoints, make_state())[0] == pytest.approx(points)

    @pytest.mark.parametrize(
        ("waiting", "running", "in_flight", "score"),
        [
            (0, 0, 0, 1.0),
            (50, 0, 0, 0.3),
            (0, 25, 0, 0.85),
            (0, 0, 25, 0.85),
            (0, 10, 25, 0.85),  # the larger of scrape and ledger
            (10, 30, 20, 0.7 * 0.8 + 0.3 * 0.4),
            (0, 500, 0, 0.7),
        ],
    )
    def test_parts(self, waiting: int, running: int, in_flight: int, score: float) -> None:
        plugin = make_plugin(LoadAware, make_handle({0: InflightLoad(requests=in_flight)}))
        endpoints = [make_endpoint(waiting=waiting, running=running)]
        assert plugin.score(make_request(), endpoints, make_state()) == pytest.approx([score])

    def test_weights_are_normalised(self) -> None:
        plugin = make_plugin(LoadAware, queueWeightFactor=7, activeRequestsWeight=3, capacity=100)
        assert plugin.score(make_request(), [make_endpoint(waiting=50)], make_state()) == pytest.approx([0.65])

    def test_refuses_no_weight_at_all(self) -> None:
        with pytest.raises(msgspec.ValidationError, match="both 0"):
            make_plugin(LoadAware, queueWeightFactor=0, activeRequestsWeight=0)


def test_the_briefs_worked_example() -> None:
    """P1 queue 20, hit 10 %; P2 queue 5, hit 90 %; P3 queue 100, full. Weights 100 and 50: 40 and 135."""
    p1, p2, p3 = (make_endpoint(slot, waiting=depth) for slot, depth in enumerate((20, 5, 100)))
    handle = make_handle({0: InflightLoad(requests=20), 1: InflightLoad(requests=5)})
    request, state = make_request(), prefix_state(1, 9, 0)
    kept = make_plugin(QueueDepth).filter(request, [p1, p2, p3], state)
    assert kept == [p1, p2]
    prefix = make_plugin(PrefixAware, handle).score(request, kept, state)
    load = make_plugin(LoadAware, handle).score(request, kept, state)
    assert [100 * p + 50 * q for p, q in zip(prefix, load, strict=True)] == [pytest.approx(40), pytest.approx(135)]


class TestLoraAware:
    LOADED = make_endpoint(0, model="base", lora=LoraState(capacity=1, running=frozenset({"sql"})))
    FREE = make_endpoint(1, model="base", lora=LoraState(capacity=2, running=frozenset({"law"})))
    FULL = make_endpoint(
        2, model="base", lora=LoraState(capacity=2, running=frozenset({"law"}), waiting=frozenset("x"))
    )
    OFF = make_endpoint(3, model="base")

    @pytest.mark.parametrize(
        ("model", "scores"),
        [("sql", [1.0, 0.5, 0.0, 0.0]), ("law", [0.0, 1.0, 1.0, 0.0]), ("base", [0.0] * 4), ("", [0.0] * 4)],
    )
    def test_table(self, model: str, scores: list[float]) -> None:
        endpoints = [self.LOADED, self.FREE, self.FULL, self.OFF]
        assert make_plugin(LoraAware).score(make_request(model=model), endpoints, make_state()) == scores

    def test_base_model_of_models_endpoint(self) -> None:
        endpoints = [make_endpoint(models=frozenset({"b"}), lora=LoraState(capacity=4))]
        assert make_plugin(LoraAware).score(make_request(model="b"), endpoints, make_state()) == [0.0]
        assert make_plugin(LoraAware).score(make_request(model="a"), endpoints, make_state()) == [0.5]

    def test_no_lora_anywhere(self) -> None:
        assert make_plugin(LoraAware).score(make_request(model="a"), make_endpoints(2), make_state()) == [0.0, 0.0]
