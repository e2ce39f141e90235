from __future__ import annotations

import random
from array import array
from collections.abc import Callable, Sequence

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pointsman.errors import BadRequestError
from pointsman.sim.emission import Emission
from pointsman.sim.engine import Engine
from pointsman.sim.kv import BlocksStored
from pointsman.sim.profiles import EngineProfile, find_profile
from pointsman.sim.sequence import SimRequest

QWEN = find_profile("qwen3-32b-2xh100")
SMALL = msgspec.structs.replace(QWEN, kv_tokens=640)  # 40 blocks


def prompt(length: int, seed: int = 0) -> array[int]:
    rng = random.Random(seed)
    return array("I", [rng.randrange(150_000) for _ in range(length)])


def request(name: str, tokens: int | array[int], outputs: int, **more: object) -> SimRequest:
    ids = prompt(tokens, seed=len(name) + sum(map(ord, name))) if isinstance(tokens, int) else tokens
    return SimRequest(name, ids, outputs, **more)  # type: ignore[arg-type]


def run(engine: Engine, now: float = 0.0, *, until: Callable[[], bool] | None = None) -> tuple[float, list[Emission]]:
    """Step until idle, or until told."""
    emissions: list[Emission] = []
    while not (until and until()):
        duration = engine.begin(now)
        if duration is None:
            break
        now += duration
        emissions += engine.finish(now).emissions
    return now, emissions


def submit(engine: Engine, requests: Sequence[SimRequest], now: float = 0.0) -> None:
    for one in requests:
        engine.submit(one, now)


class TestTiming:
    def test_one_request_takes_its_prefill_and_its_decodes(self) -> None:
        engine = Engine(QWEN)
        engine.submit(request("a", 1024, 3), 0.0)
        now, emissions = run(engine)
        prefill = QWEN.step_ms(0, 0, QWEN.chunk_ms(1024, 0))
        decodes = QWEN.step_ms(1, 1025, 0) + QWEN.step_ms(1, 1026, 0)
        assert now == pytest.approx((prefill + decodes) / 1e3)
        assert emissions == [Emission("a", 1, 0), Emission("a", 2, 0), Emission("a", 3, 0, "length")]
        assert engine.stats.time_to_first_token.sum == pytest.approx(prefill / 1e3)
        assert engine.stats.e2e_latency.sum == pytest.approx(now)
        assert engine.stats.inter_token_latency.count == 2

    # Qwen3-32B on 2xH100 TP=2, vLLM 0.12: time per output token (ms) by input length and concurrency, 1024 out.
    @pytest.mark.parametrize(
        ("inputs", "concurrency", "measured"),
        [
            *((1024, 8, 15.9), (1024, 16, 17.4), (1024, 32, 20.1), (1024, 64, 26.1), (1024, 128, 37.8)),
            *((4096, 8, 17.9), (4096, 16, 21.9), (4096, 32, 29.3)),
        ],
    )
    def test_time_per_output_token_is_within_ten_percent_of_silicon(
        self, inputs: int, concurrency: int, measured: float
    ) -> None:
        assert closed_loop_tpot_ms(inputs, concurrency) == pytest.approx(measured, rel=0.10)


def closed_loop_tpot_ms(inputs: int, concurrency: int, outputs: int = 1024) -> float:
    """Mean time per output token of ``concurrency`` clients, each sending anew when answered; staggered starts."""
    engine = Engine(QWEN)
    starts = [i * outputs * 0.025 / concurrency for i in range(concurrency)]
    now, sent, done = 0.0, 0, 0

    def send(at: float) -> None:
        nonlocal sent
        sent += 1
        engine.submit(SimRequest(str(sent), array("I", [sent]) * inputs, outputs, interval=0), at)

    while done < 2 * concurrency:
        while starts and starts[0] <= now:
            send(starts.pop(0))
        duration = engine.begin(now)
        if duration is None:
            now = starts[0]
            continue
        now += duration
        ended = [emission for emission in engine.finish(now).emissions if emission.finished]
        done += len(ended)
        for _ in ended:
            send(now)
    latencies = engine.stats.time_per_output_token
    return latencies.sum / latencies.count * 1e3


class TestBatching:
    def test_a_long_prompt_is_chunked_and_shares_steps_with_decodes(self) -> None:
        engine = Engine(QWEN)
        engine.submit(request("short", 100, 50), 0.0)
        now, _ = run(engine, until=lambda: engine.stats.generation_tokens == 1)
        engine.submit(request("long", 20_000, 2), now)
        _, emissions = run(engine, now, until=lambda: engine.stats.generation_tokens > 5)
        # 20,000 tokens in chunks of 8191: the long prompt's first token comes with the third step.
        assert [e.request_id for e in emissions] == ["short", "short", "short", "long", "short", "long"]
        assert engine.stats.iteration_tokens.sum == 100 + 2 * 8192 + (20_000 - 2 * 8191 + 1) + 2

    def test_first_come_first_served(self) -> None:
        engine = Engine(msgspec.structs.replace(QWEN, max_num_seqs=2))
        submit(engine, [request(name, 50, 4, interval=0) for name in "abcd"])
        engine.begin(0.0)
        assert (engine.running, engine.waiting) == (2, 2)
        engine.finish(0.1)
        _, emissions = run(engine, 0.1)
        assert [e.request_id for e in emissions] == ["a", "b", "c", "d"]

    @pytest.mark.parametrize(
        ("interval", "counts"), [(1, [1, 2, 3, 4, 5, 6, 7]), (3, [1, 4, 7]), (4, [1, 5, 7]), (0, [7])]
    )
    def test_reports_come_at_the_interval(self, interval: int, counts: list[int]) -> None:
        engine = Engine(QWEN)
        engine.submit(request("a", 20, 7, interval=interval), 0.0)
        assert [e.outputs for e in run(engine)[1]] == counts

    def test_what_cannot_run_is_refused(self) -> None:
        engine = Engine(SMALL)
        with pytest.raises(BadRequestError, match="maximum context length is 640 tokens"):
            engine.submit(request("a", 600, 41), 0.0)
        engine.submit(request("a", 600, 40), 0.0)
        with pytest.raises(BadRequestError, match="in use"):
            engine.submit(request("a", 10, 1), 0.0)
        with pytest.raises(BadRequestError, match="no adapter slots"):
            engine.submit(request("b", 10, 1, adapter="x"), 0.0)
        with pytest.raises(BadRequestError, match="at least one"):
            engine.submit(request("c", 0, 1), 0.0)


class TestPrefixCache:
    def test_hits_are_whole_blocks_and_never_the_whole_prompt(self) -> None:
        engine = Engine(QWEN)
        base = prompt(64)
        hits = []
        for name, tokens in (
            *(("cold", base), ("same", base), ("longer", base + prompt(10, 5))),
            *(("cut", base[:50]), ("other", prompt(64, 9)), ("fork", base[:40] + prompt(40, 7))),
        ):
            engine.submit(request(name, tokens, 1), 0.0)
            hits.append(run(engine)[1][-1].cached)
        assert hits == [0, 48, 64, 48, 0, 32]
        assert engine.stats.prefix_queries == 64 + 64 + 74 + 50 + 64 + 80
        assert engine.stats.prefix_hits == sum(hits)
        assert engine.stats.cached_tokens == sum(hits)

    def test_answers_can_be_hit_by_the_next_turn(self) -> None:
        engine = Engine(QWEN, events=True)
        first = request("turn-1", 40, 57)
        engine.submit(first, 0.0)
        run(engine)
        stored = [event for event in engine.drain_events() if isinstance(event, BlocksStored)]
        tokens = [token for event in stored for token in event.token_ids]
        assert len(tokens) == 96  # 40 + 57 - 1: the last token was never computed
        assert tokens[:40] == first.tokens.tolist()
        assert [event.parent for event in stored[1:]] == [event.keys[-1] for event in stored[:-1]]
        engine.submit(request("turn-2", array("I", tokens) + prompt(30, 3), 1), 0.0)
        assert run(engine)[1][-1].cached == 96

    def test_an_answer_s_blocks_are_found_while_it_is_written(self) -> None:
        engine = Engine(QWEN, events=True)
        engine.submit(request("a", 16, 100), 0.0)
        run(engine, until=lambda: engine.stats.generation_tokens == 40)
        # 16 + 39 tokens are computed: three full blocks.
        stored = [event for event in engine.drain_events() if isinstance(event, BlocksStored)]
        assert sum(len(event.keys) for event in stored) == 3

    def test_adapters_and_salts_share_nothing(self) -> None:
        engine = Engine(QWEN, max_loras=1)
        for name, more in (("a", {}), ("b", {"adapter": "x"}), ("c", {"salt": "s"}), ("d", {"adapter": "x"})):
            engine.submit(request(name, prompt(64), 1, **more), 0.0)
            cached = run(engine)[1][-1].cached
            assert cached == (48 if name == "d" else 0)

    def test_eviction_takes_the_least_recently_used(self) -> None:
        engine = Engine(SMALL)
        for name in ("a", "b", "a2", "c"):  # 13 blocks each, 40 in all: c evicts b, as a was used again
            engine.submit(request(name, prompt(208, ord(name[0])), 1), 0.0)
            run(engine)
        engine.submit(request("d", prompt(208, 4), 1), 0.0)
        run(engine)
        engine.submit(request("a3", prompt(208, ord("a")), 1), 0.0)
        assert run(engine)[1][-1].cached == 192
        engine.submit(request("b2", prompt(208, ord("b")), 1), 0.0)
        assert run(engine)[1][-1].cached == 0


class TestPreemption:
    def test_the_last_admitted_gives_way_and_still_gets_all_tokens(self) -> None:
        engine = Engine(SMALL)
        submit(engine, [request("a", 300, 200), request("b", 290, 200)])
        _, emissions = run(engine)
        assert engine.stats.preemptions == 1
        for name in "ab":
            counts = [e.outputs for e in emissions if e.request_id == name]
            assert counts == list(range(1, 201))
        ends = [e.request_id for e in emissions if e.finished]
        assert ends == ["a", "b"]
        assert engine.stats.request_preemptions.sum == 1
        assert engine.pool.used == 0

    def test_nobody_is_admitted_in_a_step_that_preempted(self) -> None:
        engine = Engine(SMALL)
        submit(engine, [request("a", 304, 300), request("b", 320, 200)])
        now, _ = run(engine, until=lambda: engine.stats.preemptions > 0)
        assert (engine.running, engine.waiting) == (1, 1)
        run(engine, now)


class TestAbort:
    def test_an_abort_frees_everything_at_any_time(self) -> None:
        engine = Engine(SMALL)
        submit(engine, [request("decoding", 100, 50), request("prefilling", 300, 5), request("waiting", 400, 5)])
        now = engine.begin(0.0) or 0.0
        assert engine.waiting == 1
        for name in ("decoding", "prefilling", "waiting"):
            assert engine.abort(name)
            assert not engine.abort(name)
        engine.finish(now)
        assert (engine.running, engine.waiting, engine.pool.used) == (0, 0, 0)
        assert engine.begin(now) is None
        assert engine.stats.running == 0

    def test_others_are_not_disturbed(self) -> None:
        engine = Engine(QWEN)
        submit(engine, [request("a", 100, 30), request("b", 100, 30)])
        now, _ = run(engine, until=lambda: engine.stats.generation_tokens >= 10)
        engine.abort("a")
        _, emissions = run(engine, now)
        assert {e.request_id for e in emissions} == {"b"}
        assert engine.stats.generation_tokens == 10 + 25


class TestAdapters:
    def test_a_full_device_makes_requests_wait_but_lets_others_pass(self) -> None:
        engine = Engine(QWEN, max_loras=1)
        submit(
            engine,
            [
                request("x1", 20, 40, adapter="x", interval=0),
                request("y1", 20, 5, adapter="y", interval=0),
                request("base", 20, 5, interval=0),
                request("x2", 20, 60, adapter="x", interval=0),
            ],
        )
        duration = engine.begin(0.0) or 0.0
        engine.finish(duration)
        assert (engine.stats.running, engine.stats.waiting, engine.stats.deferred) == (3, 1, 1)
        assert engine.stats.adapters_seen == {("x", "y"): duration}
        assert duration > QWEN.load_lora_ms / 1e3
        _, emissions = run(engine, duration)
        assert [e.request_id for e in emissions] == ["base", "x1", "x2", "y1"]
        assert ("y", "") in engine.stats.adapters_seen

    def test_only_loading_costs(self) -> None:
        engine = Engine(QWEN, max_loras=2)
        times = []
        for adapter in ("x", "x", "y", "z", "y", "x"):  # z takes the place of x
            engine.submit(request("r", 20, 1, adapter=adapter), 0.0)
            times.append(run(engine)[0])
        loads = [time > QWEN.load_lora_ms / 1e3 for time in times]
        assert loads == [True, False, True, True, False, True]

    def test_aborted_requests_no_longer_wait(self) -> None:
        engine = Engine(QWEN, max_loras=1)
        submit(engine, [request("x", 20, 9, adapter="x"), request("y", 20, 9, adapter="y")])
        now = engine.begin(0.0) or 0.0
        engine.abort("y")
        engine.finish(now)
        assert list(engine.stats.adapters_seen) == [("x", "")]


profiles = st.builds(
    lambda blocks, seqs, budget: msgspec.structs.replace(
        QWEN, kv_tokens=blocks * 16, max_num_seqs=seqs, max_batched_tokens=budget
    ),
    st.integers(12, 60),
    st.integers(1, 8),
    st.integers(16, 200),
)
arrivals = st.lists(
    st.tuples(st.integers(1, 120), st.integers(1, 70), st.integers(0, 5), st.sampled_from([None, "x", "y"])),
    min_size=1,
    max_size=14,
)


@settings(max_examples=60, deadline=None)
@given(profile=profiles, arrivals=arrivals, aborts=st.sets(st.integers(0, 13)), step=st.integers(1, 9))
def test_every_request_gets_its_tokens_and_every_block_comes_back(
    profile: EngineProfile, arrivals: list[tuple[int, int, int, str | None]], aborts: set[int], step: int
) -> None:
    engine = Engine(profile, max_loras=1, events=True)
    now, steps = 0.0, 0
    seen: dict[str, int] = {}
    queue = [
        SimRequest(str(i), prompt(tokens, seed=tokens % 3), outputs, adapter, interval=interval)
        for i, (tokens, outputs, interval, adapter) in enumerate(arrivals)
        if tokens + outputs <= profile.num_blocks * 16
    ]
    expected = {one.id: one.max_tokens for one in queue if int(one.id) not in aborts}
    while True:
        if queue and steps % step == 0:
            engine.submit(queue.pop(0), now)
        duration = engine.begin(now)
        if duration is None and not queue:
            break
        steps += 1
        if duration is None:
            continue
        for sequence in engine.decoding.members:
            needed = sequence.prompt + engine.decoding.tick - sequence.base
            assert needed <= sequence.blocks * 16 < needed + 16
        now += duration
        if steps % 7 == 0:
            for number in aborts:
                engine.abort(str(number))
        for emission in engine.finish(now).emissions:
            assert emission.outputs > seen.get(emission.request_id, 0)
            seen[emission.request_id] = emission.outputs
        holds = [sequence.hold for sequence in engine._running]
        assert sum(max(0, count) for count in engine.pool._blocks.values()) == sum(len(hold.keys) for hold in holds)
        assert engine.pool._private == sum(hold.private for hold in holds)
        assert all(sequence.blocks == sequence.hold.blocks for sequence in engine._running)
        assert 0 <= engine.pool.used <= engine.pool.total
        members = engine.decoding.members
        tick = engine.decoding.tick
        assert engine.decoding.context == sum(s.prompt + tick - s.base for s in members)
        assert steps < 5000
    assert {name: seen[name] for name in expected} == expected
    assert (engine.pool.used, engine.running) == (0, 0)
