"""What is none of ours in the store, and a log with holes."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

import pytest
from tests.kvcache.redis_rig import RedisServer, replicas, run, until

from pointsman.kvcache.kv_index import DISK
from pointsman.kvcache.shared_keys import Names
from pointsman.kvcache.shared_reader import LIVE_CONFIDENCE

GARBAGE: list[tuple[str, Callable[[Any, Names], object], str]] = [
    ("a holder", lambda c, n: c.zadd(n.holders, {b"\xff\xfe": 2e9, b"x": 2e9}), "bad-holder"),
    ("holders that are no sorted set", lambda c, n: (c.delete(n.holders), c.set(n.holders, "x")), ""),
    ("a log that is no stream", lambda c, n: (c.delete(n.log), c.set(n.log, "x")), ""),
    ("an entry", lambda c, n: c.xadd(n.log, {"h": "0:a", "v": "x"}), "bad-entry"),
    (
        "part of a key in an entry",
        lambda c, n: c.xadd(
            n.log, {"h": "0:a", "k": "delta", "x": "1", "s0": "123", "v": int(c.hget(n.meta("0:a"), "version")) + 1}
        ),
        "bad-entry",
    ),
    ("an odd member", lambda c, n: (c.sadd(n.tier("0:a", 0), "odd"), _reload(c, n)), "bad-member"),
    ("a tier that is no set", lambda c, n: (c.set(n.tier("0:a", 2), "x"), _reload(c, n)), "bad-set"),
    ("a version", lambda c, n: (c.hset(n.meta("0:a"), "confidence", "7"), _reload(c, n)), "bad-meta"),
    ("a description", lambda c, n: (c.delete(n.meta("0:a")), c.set(n.meta("0:a"), "x"), _reload(c, n)), "bad-meta"),
    ("a lease", lambda c, n: (c.delete(n.lease("0:a")), c.sadd(n.lease("0:a"), "x")), ""),
]


def _reload(client: Any, names: Names) -> object:
    return client.xadd(names.log, {"h": "0:a", "v": "9" * 18, "k": "end", "x": "1"})


@pytest.mark.parametrize(("put", "counted"), [case[1:] for case in GARBAGE], ids=[case[0] for case in GARBAGE])
def test_garbage_is_refused_counted_and_mended(
    put: Callable[[Any, Names], object], counted: str, shared_server: RedisServer, scope: str
) -> None:
    async def work() -> None:
        async with replicas(shared_server, scope, 2) as (near, far):
            near.holds("a", range(10))
            await until(lambda: far.remembered("a") == near.own("a"))
            with shared_server.client() as client:
                put(client, Names(scope))
            if counted:
                await until(lambda: far.store.counts.get(counted, 0) > 0)
            near.holds("a", range(10, 20))
            near.holds("a", [99], DISK)
            await until(lambda: far.remembered("a") == near.own("a"))
            await until(lambda: far.memory.confidence("a") == LIVE_CONFIDENCE)
            assert "failed" not in near.store.counts
            assert "failed" not in far.store.counts

    run(work)


def test_a_reader_that_falls_behind_reads_anew(shared_server: RedisServer, scope: str) -> None:
    async def work() -> None:
        async with replicas(shared_server, scope, 2) as (near, far):
            near.holds("a", range(10))
            await until(lambda: far.remembered("a") == near.own("a"))
            for at in range(10, 30):
                near.holds("a", [at])
                with shared_server.client() as client:
                    client.xtrim(Names(scope).log, maxlen=0)
                await asyncio.sleep(0.02)
            near.holds("a", [1000])
            await until(lambda: far.remembered("a") == near.own("a"))

    run(work)
