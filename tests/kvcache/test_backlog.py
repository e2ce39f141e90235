"""Long batches in pieces: the same effect, in order, with other work in between."""

from __future__ import annotations

import asyncio
from typing import Any

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.kvcache.sinks import DictSink

from pointsman.clock import SystemClock
from pointsman.kvcache import backlog
from pointsman.kvcache.backlog import Backlog, CatchUp, cost, pieces
from pointsman.kvcache.events import AllCleared, BlockRemoved, BlockStored, CacheEvent, EventBatch
from pointsman.kvcache.following import Following
from pointsman.kvcache.pod_view import PodView
from pointsman.kvcache.stream_types import StreamOptions


def stored(first: int, count: int, parent: int | None = None, **more: Any) -> BlockStored:
    hashes = list(range(first, first + count))
    return BlockStored(hashes, parent, [number for number in hashes for _ in range(2)], 2, **more)


def state(*batches: EventBatch) -> tuple[Any, Any, Any]:
    sink = DictSink()
    view = PodView(sink, 0, "m")
    for batch in batches:
        view.apply(batch)
    del view.counts["orphan"]  # of blocks that wait already, a whole event counts those again, a piece of it does not
    return {place: held for place, held in sink.keys.items() if held}, (view.live, view.orphans), view.counts


EXTRA = st.lists(st.none() | st.just(["salt"]) | st.just([["img", 1]]), min_size=100, max_size=100)
RANGE = st.tuples(st.integers(1, 60), st.integers(1, 40))
EVENTS = st.lists(
    st.tuples(st.sampled_from(["store", "store", "store", "remove", "offload", "mismatch", "clear"]), RANGE), max_size=8
)


def made(kind: str, first: int, count: int, extras: list[Any] | None) -> CacheEvent:
    """Blocks of one chain: as in an engine, a hash says all that comes before it."""
    if kind == "store":
        extra = None if extras is None else extras[first : first + count]
        return stored(first, count, first - 1 or None, extra_keys=extra)
    hashes = list(range(first, first + count))
    if kind == "remove":
        return BlockRemoved(hashes)
    if kind == "offload":
        return BlockStored(hashes, medium="CPU")
    return BlockStored(hashes, None, [1, 2, 3], 2) if kind == "mismatch" else AllCleared()


@settings(deadline=None)
@given(EVENTS, st.none() | EXTRA, st.integers(1, 20))
def test_pieces_have_the_effect_of_the_whole(
    events: list[tuple[str, tuple[int, int]]], extras: list[Any] | None, size: int
) -> None:
    whole = EventBatch(1.0, [made(kind, *span, extras) for kind, span in events])
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(backlog, "PIECE", size)
        parts = pieces(whole)
        assert all(cost(part) <= size + backlog.EVENT or len(part.events) == 1 for part in parts)
    assert state(*parts) == state(whole)


def test_a_step_is_bounded_and_in_order() -> None:
    seen: list[EventBatch] = []
    one = Backlog(seen.append)
    one.put(EventBatch(1.0, [stored(0, 5000), AllCleared()]))
    one.put(EventBatch(2.0, [stored(0, 1)]))
    steps = 1
    while one.step():
        steps += 1
    assert steps >= 5
    assert all(cost(batch) <= backlog.PIECE + backlog.EVENT for batch in seen)
    assert [batch.ts for batch in seen] == [1.0] * (len(seen) - 1) + [2.0]
    assert isinstance(seen[-2].events[-1], AllCleared)
    one.put(EventBatch(3.0, [stored(0, 5000)]))
    one.step()
    one.clear()
    assert not one.step()
    assert len(one) == 0


def test_the_event_loop_turns_between_pieces() -> None:
    async def main() -> None:
        catch_up = CatchUp(SystemClock(), 0.0, asyncio.Lock())
        view = PodView(DictSink(), 0, "m")
        following = Following("p", 0, view, StreamOptions(), lambda _: None, catch_up.add)
        task = asyncio.create_task(catch_up.run())
        following.message(0, EventBatch(1.0, [stored(0, 10_000)]), 1.0, 1.0)
        seen = [view.indexed]
        assert catch_up.behind
        following.message(1, EventBatch(1.0, [BlockRemoved([0]), stored(20_000, 1)]), 1.0, 1.0)
        async with asyncio.timeout(20):
            while catch_up.behind:
                await asyncio.sleep(0)
                seen.append(view.indexed)
            await catch_up.wait()
        assert seen == sorted(seen)
        assert len(set(seen)) >= 9, "a query in between sees a prefix"
        assert seen[-1] == 10_000
        following.message(2, EventBatch(1.0, [stored(30_000, 10_000)]), 1.0, 1.0)
        following.forget()
        await catch_up.wait()
        assert view.indexed == 0
        task.cancel()

    asyncio.run(main())


def test_without_anybody_to_work_later_all_is_done_at_once() -> None:
    view = PodView(DictSink(), 0, "m")
    following = Following("p", 0, view, StreamOptions(), lambda _: None)
    following.message(0, EventBatch(1.0, [stored(0, 10_000)]), 1.0, 1.0)
    assert view.indexed == 10_000


def test_digests_are_cut_with_their_hashes() -> None:
    digests = [number.to_bytes(32, "big") for number in range(3000)]
    event = msgspec.structs.replace(stored(0, 3000), digests=digests)
    parts = [part for batch in pieces(EventBatch(1.0, [event])) for part in batch.events]
    assert all(isinstance(part, BlockStored) and part.digests is not None for part in parts)
    assert [digest for part in parts for digest in part.digests] == digests  # type: ignore[union-attr]
