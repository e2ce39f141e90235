"""Leases, recorders, and that the store is the index."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from itertools import count

import msgspec
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from tests.kvcache.redis_rig import FAST, TIERS, RedisServer, Replica, replicas, run, until

from pointsman.kvcache.kv_index import GPU
from pointsman.kvcache.shared import _RedisLink
from pointsman.kvcache.shared_changes import Budget, Recorder
from pointsman.kvcache.shared_keys import DELTA_KEYS, Names, holder_name
from pointsman.kvcache.shared_writer import Writer
from pointsman.kvcache.snapshot import unpack

_SCOPES = count()
Step = tuple[str, int | None, list[int]]


def test_the_lease_of_a_dead_writer_goes_to_another(shared_server: RedisServer, scope: str) -> None:
    async def work() -> None:
        async with replicas(shared_server, scope, 2) as (one, other):
            one.holds("a", range(10))
            await until(lambda: one.store.leases == 1)
            other.holds("a", range(5))
            await asyncio.sleep(0.2)
            assert other.store.leases == 0
            assert one.store._task is not None
            one.store._task.cancel()  # as a process that is killed: no lease is given back
            one.store.connected = False
            await until(lambda: other.store.leases == 1)
            await until(lambda: shared_server.content(scope, "a") == other.own("a"))

    run(work)


def test_who_was_held_up_past_his_lease_writes_no_more(shared_server: RedisServer, scope: str) -> None:
    async def work() -> None:
        held, late = Replica(shared_server.url, scope), Replica(shared_server.url, scope)
        writers = [Writer(Names(scope), who, replica.facts, replica.clock, FAST.writer) for who, replica in
                   (("one", held), ("two", late))]  # fmt: skip
        link = _RedisLink(shared_server.url)
        await link.open()
        held.sure["a"] = late.sure["a"] = 1.0
        sinks = [writer.tap("a", 0, 0, replica.index) for writer, replica in zip(writers, (held, late), strict=True)]
        sinks[0].store(0, GPU, [1])
        await writers[0].flush(link)
        with shared_server.client() as client:
            client.delete(Names(scope).lease(holder_name("a", 0)))
        await writers[1].flush(link)
        assert (writers[0].leases, writers[1].leases) == (1, 1)
        sinks[0].store(0, GPU, [2])
        await writers[0].flush(link)
        assert (writers[0].leases, writers[0].counts["leases-lost"]) == (0, 1)
        assert shared_server.content(scope, "a")[GPU] == set()
        await link.close()
        await held.store.stop()
        await late.store.stop()

    run(work)


def test_who_hears_badly_writes_nothing_and_leaves_it_to_others(shared_server: RedisServer, scope: str) -> None:
    async def work() -> None:
        async with replicas(shared_server, scope, 2) as (one, other):
            one.holds("a", range(10))
            await until(lambda: shared_server.content(scope, "a") == one.own("a"))
            other.holds("a", range(20))
            other.sure["a"] = 0.4
            one.sure["a"] = 0.4
            await until(lambda: one.store.leases == 0)
            await until(lambda: shared_server.meta(scope, "a")[b"confidence"] == b"0")
            assert shared_server.content(scope, "a") == one.own("a")
            other.sure["a"] = 0.6
            await until(lambda: shared_server.content(scope, "a") == other.own("a"))

    run(work)


def test_too_much_at_once_is_dropped_counted_and_written_whole() -> None:
    replica = Replica("redis://127.0.0.1:1", "none")
    budget = Budget(limit=10)
    one, two = (Recorder(replica.index, slot, budget) for slot in range(2))
    for recorder in (one, two):
        recorder.start()
        assert list(recorder.content()) == []
    one.store(0, GPU, list(range(8)))
    two.store(1, GPU, list(range(8)))
    assert (one.whole, two.whole, budget.dropped, budget.used) == (False, True, 8, 8)
    (change,) = two.content()
    assert sorted(unpack(change.stored[GPU])) == list(range(8))
    one.stop()
    assert (budget.dropped, budget.used, one.take()) == (16, 0, [])


KEYS = st.lists(st.integers(0, 30) | st.sampled_from([2**64 - 1, 0x3132333435363738]), max_size=12, unique=True)
STEPS: st.SearchStrategy[list[Step]] = st.lists(
    st.tuples(st.sampled_from(["store", "discard"]), st.sampled_from(TIERS), KEYS)
    | st.tuples(st.just("clear"), st.sampled_from([None, *TIERS]), st.just([]))
    | st.tuples(st.sampled_from(["flush", "overflow", "lose"]), st.just(None), st.just([])),
    max_size=25,
)


@given(STEPS)
@settings(
    max_examples=40,
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)
def test_after_a_flush_the_store_is_the_index(shared_server: RedisServer, steps: Sequence[Step]) -> None:
    scope = f"steps-{next(_SCOPES)}"

    async def work() -> None:
        link = _RedisLink(shared_server.url)
        await link.open()
        replica = Replica(shared_server.url, scope)
        options = msgspec.structs.replace(FAST.writer, lease=60.0)
        writer = Writer(Names(scope), "me", replica.facts, replica.clock, options)
        sink = writer.tap("a", 0, 3, replica.index)
        replica.sure["a"] = 1.0
        for what, tier, keys in [*steps, ("flush", None, [])]:
            if what == "store":
                sink.store(3, tier or 0, keys)
            elif what == "discard":
                sink.discard(3, tier or 0, keys)
            elif what == "clear":
                sink.clear(3, tier)
            elif what == "overflow":
                sink.whole = True
            elif what == "lose":
                writer.offline()
            else:
                await writer.flush(link)
                assert shared_server.content(scope, "a") == [set(replica.index.keys_of(3, t)) for t in TIERS]
        assert not writer.counts["refused"]
        await link.close()
        await replica.store.stop()

    run(work)


def test_a_rewrite_that_is_cut_short_is_made_whole_at_the_end(shared_server: RedisServer, scope: str) -> None:
    async def work() -> None:
        replica = Replica(shared_server.url, scope)
        link = _RedisLink(shared_server.url)
        await link.open()
        writer = Writer(Names(scope), "me", replica.facts, replica.clock, FAST.writer)
        sink = writer.tap("a", 0, 0, replica.index)
        replica.sure["a"] = 1.0
        sink.store(0, GPU, list(range(20 * DELTA_KEYS)))
        flush = asyncio.ensure_future(writer.flush(link))
        await until(lambda: bool(shared_server.meta(scope, "a")), pause=0.0)
        flush.cancel()
        await asyncio.wait([flush])
        if flush.cancelled():  # the client may lose a cancellation; then it is whole already
            assert shared_server.meta(scope, "a")[b"whole"] == b"0"
        await writer.flush(link)
        assert shared_server.meta(scope, "a")[b"whole"] == b"1"
        assert len(shared_server.content(scope, "a")[GPU]) == 20 * DELTA_KEYS
        await link.close()
        await replica.store.stop()

    run(work)
