"""The second tier and blocks that another engine has computed."""

from __future__ import annotations

import random
from array import array

import msgspec
import pytest

from pointsman.sim.cpu_tier import CpuTier
from pointsman.sim.engine import Engine
from pointsman.sim.events import encode_batch
from pointsman.sim.kv import CPU, BlocksRemoved, BlocksStored
from pointsman.sim.profiles import find_profile
from pointsman.sim.sequence import SimRequest

QWEN = find_profile("qwen3-32b-2xh100")
SMALL = msgspec.structs.replace(QWEN, kv_tokens=640, cpu_kv_tokens=1600)  # 40 blocks and 100


def prompt(seed: int, tokens: int = 208) -> array[int]:
    return array("I", random.Random(seed).choices(range(150_000), k=tokens))


def answer(engine: Engine, name: str, tokens: array[int], outputs: int = 1, **more: int) -> tuple[float, int]:
    """Milliseconds the request takes alone, and its cached tokens."""
    engine.submit(SimRequest(name, tokens, outputs, **more), 0.0)  # type: ignore[arg-type]
    now, cached = 0.0, 0
    while (length := engine.begin(now)) is not None:
        now += length
        for emission in engine.finish(now).emissions:
            cached = emission.cached
    return now * 1e3, cached


class TestTier:
    def test_the_least_recently_used_goes(self) -> None:
        tier = CpuTier(3)
        assert tier.put([1, 2, 3]) == ([1, 2, 3], [])
        tier.touch([1])
        assert tier.put([4]) == ([4], [2])
        assert tier.put([3, 5]) == ([5], [1])

    def test_of_more_than_fit_the_last_stay(self) -> None:
        tier = CpuTier(2)
        assert tier.put([1, 2, 3]) == ([2, 3], [])


class TestCopyingBack:
    def test_evicted_blocks_are_hit_and_cost_their_copy(self) -> None:
        engine = Engine(SMALL)
        for seed in range(4):  # 13 blocks each: the last evicts the first
            answer(engine, str(seed), prompt(seed))
        assert len(engine.pool.cpu.blocks) > 0
        took, cached = answer(engine, "again", prompt(0))
        away = 11  # of 13 blocks the first is still on the device, and the last is computed anyway
        assert cached == 192
        expected = SMALL.step_ms(0, 0, SMALL.chunk_ms(16, 192)) + SMALL.restore_ms(away)
        assert took == pytest.approx(expected)
        assert SMALL.restore_ms(away) == pytest.approx(11 * 16 * 262_144 / 20e9 * 1e3)

    def test_without_the_tier_they_are_lost(self) -> None:
        engine = Engine(msgspec.structs.replace(SMALL, cpu_kv_tokens=0))
        for seed in range(4):
            answer(engine, str(seed), prompt(seed))
        assert answer(engine, "again", prompt(0))[1] == 16  # its first block was not evicted

    def test_events_name_the_medium_and_come_before_the_removal(self) -> None:
        engine = Engine(SMALL, events=True)
        held: dict[str, set[int]] = {"GPU": set(), "CPU": set()}
        for seed in [0, 1, 2, 3, 0, 4, 1, 5, 6, 7, 8, 9, 10, 11, 12, 0]:
            answer(engine, str(seed), prompt(seed))
            for event in engine.drain_events():
                if isinstance(event, BlocksStored):
                    assert not held[event.medium] & set(event.keys)
                    assert len(event.token_ids) == (0 if event.medium == CPU else 16 * len(event.keys))
                    assert event.medium == "GPU" or held["GPU"] >= set(event.keys)
                    held[event.medium].update(event.keys)
                elif isinstance(event, BlocksRemoved):
                    assert held[event.medium] >= set(event.keys)
                    held[event.medium].difference_update(event.keys)
        assert held["CPU"] == set(engine.pool.cpu.blocks)
        assert len(held["CPU"]) == 100
        assert held["GPU"] == set(engine.pool._blocks)

    def test_on_the_wire_they_have_no_tokens(self) -> None:
        payload = encode_batch([BlocksStored([5], None, (), medium=CPU), BlocksRemoved([5], CPU)], 16, 1.0)
        _, (stored, removed), _ = msgspec.msgpack.decode(payload)
        assert (stored["medium"], stored["token_ids"], stored["parent_block_hash"]) == ("CPU", [], None)
        assert (removed["medium"], removed["block_hashes"]) == ("CPU", [5])

    def test_blocks_add_up_when_only_some_are_away(self) -> None:
        engine = Engine(SMALL)
        rng = random.Random(3)
        for number in range(60):
            base = prompt(rng.randrange(5))
            answer(engine, str(number), base[: rng.randrange(20, 208)] + prompt(number, rng.randrange(1, 60)), 20)
            assert engine.pool.used == 0
            assert engine.pool.cached <= engine.pool.total


class TestReceived:
    def test_what_another_engine_computed_is_not_computed_again(self) -> None:
        engine = Engine(QWEN)
        took, cached = answer(engine, "a", prompt(1, 4000), 2, received=3999)
        assert took == pytest.approx(QWEN.step_ms(0, 0, QWEN.chunk_ms(1, 3999)) + QWEN.step_ms(1, 4001, 0))
        assert cached == 3999
        assert answer(engine, "b", prompt(1, 4000))[1] == 3984  # and others find its blocks

    def test_the_last_token_is_always_computed(self) -> None:
        assert answer(Engine(QWEN), "a", prompt(1, 100), received=100)[1] == 99

    def test_the_transfer_takes_its_time(self) -> None:
        assert QWEN.transfer_ms(4000) == pytest.approx(4000 * 262_144 / 25e9 * 1e3)
