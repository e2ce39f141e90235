"""Precise prefixes end to end: simulated pods that publish events, a real Envoy, a real picker that listens."""

from __future__ import annotations

import asyncio
import os
import signal
from pathlib import Path
from typing import Any

import pytest
from tests.e2e.stack import Stack, chat, running, until

from pointsman.framework.loader import read_source

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(120)]

FLAGS = ("--time-scale", "20", "--events-port", "-1")
USERS = 12
TURN = 112
"""Tokens that a turn adds at most, and a started block. Where a conversation is not known, several are missing."""
PACE = 0.35
RECOVERY = 5.0
"""Seconds after the picker's death from which on hits must be as before."""


def _preset(folder: Path, budget_ms: int | None = None) -> str:
    """The preset with every answer looked at; as shipped but for that, or with another budget for tokenizing."""
    text, _ = read_source("precise")
    if budget_ms is not None:
        assert "budgetMs: 50" in text
        text = text.replace("budgetMs: 50", f"budgetMs: {budget_ms}")
    path = folder / "precise.yaml"
    path.write_text(text + "observeShare: 1.0\n")
    return str(path)


async def _all_confident(stack: Stack) -> bool:
    try:
        pods = (await stack.admin("/pods"))["pods"]
    except OSError:
        return False
    return bool(pods) and all(pod["kv_events"] and pod["kv_events"]["confidence"] == 1.0 for pod in pods)


def _said(user: int, turn: int) -> dict[str, Any]:
    """A turn of a conversation: all that was said before, behind a system prompt that several users share."""
    said = "".join(f"user {user} turn {i} " * 20 for i in range(turn + 1))
    return chat(f"system {user % 4} " * 150 + said, tokens=8)


async def _talk(stack: Stack, users: range, turns: range) -> list[int]:
    """Conversations side by side, out of step, so that a moment's stall does not meet all of them."""

    async def talk(user: int) -> list[int]:
        statuses = []
        await asyncio.sleep(PACE * (user - users.start) / len(users))
        for turn in turns:
            status, _, _ = await stack.post(_said(user, turn))
            statuses.append(status)
            await asyncio.sleep(PACE)
        return statuses

    answers = await asyncio.gather(*(talk(user) for user in users))
    return [status for statuses in answers for status in statuses]


async def _records(stack: Stack, count: int) -> list[dict[str, Any]]:
    async def over() -> bool:
        records = (await stack.admin(f"/decisions?last={count}"))["decisions"]
        return all(record["cause"] is not None for record in records)

    await until(over)
    records: list[dict[str, Any]] = (await stack.admin(f"/decisions?last={count}"))["decisions"]
    assert len(records) == count
    return records


def _wrong(records: list[dict[str, Any]]) -> float:
    """Tokens predicted too many or too few, each request for itself, by tokens reported as cached."""
    off = sum(abs(one["predicted_cached_tokens"] - (one["cached_tokens"] or 0)) for one in records)
    return float(off / sum(one["cached_tokens"] or 0 for one in records))


def _found(records: list[dict[str, Any]]) -> float:
    """Share of requests that met their whole conversation so far."""
    found = [one["prompt_tokens"] - (one["cached_tokens"] or 0) <= TURN for one in records]
    return found.count(True) / len(found)


async def _kill_picker(stack: Stack) -> float:
    """SIGKILL the picker; returns when that was, once its successor knows all caches."""
    assert stack.up is not None
    up, loop = stack.up, asyncio.get_running_loop()
    pid = up.picker.pid
    assert pid is not None
    up._ready.unlink()
    os.kill(pid, signal.SIGKILL)
    killed = loop.time()

    async def back() -> bool:
        if up.picker.pid in (None, pid) or not up._ready.exists():
            return False
        up.refresh_ports()
        return await _all_confident(stack)

    await until(back)
    return killed


async def _stall(stack: Stack) -> list[int]:
    """Two dozen prompts come while no pod answers for a moment, as when a busy machine is slow to start."""
    pids = [pod.child.pid for pod in stack.pods if pod.child.pid is not None]
    for pid in pids:
        os.kill(pid, signal.SIGSTOP)
    try:
        burst = asyncio.gather(*(stack.post(chat(f"burst {i} " * 100)) for i in range(24)))
        await asyncio.sleep(0.2)
    finally:
        for pid in pids:
            os.kill(pid, signal.SIGCONT)
    return [status for status, _, _ in await burst]


def test_a_killed_picker_knows_it_all_again_within_seconds(tmp_path: Path) -> None:
    """With the preset as shipped, and prompts late by dozens right after the restart."""

    async def main() -> None:
        async with running(tmp_path, pods=4, flags=FLAGS, config=_preset(tmp_path)) as stack:
            loop, users, window = asyncio.get_running_loop(), range(USERS), USERS * 8
            statuses = await _talk(stack, users, range(4))  # warm-up
            await until(lambda: _all_confident(stack))
            statuses += await _talk(stack, users, range(4, 12))
            before = await _records(stack, window)
            assert _wrong(before) < 0.01
            assert _found(before) > 0.95
            # Exact: the approximate match counts in 64 tokens, and has no idea of a token more or less.
            assert any(one["predicted_cached_tokens"] % 64 for one in before)
            assert await stack.metric("pointsman_prefix_parity_tokens_total") > 0
            pods = (await stack.admin("/pods"))["pods"]
            assert all(pod["kv_events"]["blocks"]["gpu"] and not pod["kv_events"]["gaps"] for pod in pods)

            others = asyncio.create_task(_talk(stack, range(USERS, USERS + 4), range(8)))  # nobody may notice
            killed = await _kill_picker(stack)
            assert loop.time() - killed < RECOVERY
            statuses += await _stall(stack)
            await asyncio.sleep(killed + RECOVERY - loop.time())
            statuses += await others
            # Whoever talks now was silent since: only the pods' events can tell where the conversations are.
            statuses += await _talk(stack, users, range(12, 20))
            after = await _records(stack, window)
            assert _found(after) >= 0.95 * _found(before)
            assert _wrong(after) < 0.01
            assert set(statuses) == {200}

    asyncio.run(main())


def test_predicted_equals_reported_while_memory_is_short(tmp_path: Path) -> None:
    """Every prompt evicts some of another; what a pod says it removed must not be expected of it any longer."""

    async def main() -> None:
        # One at a time, and patient with the tokenizer: what is compared is knowledge, not speed.
        config = _preset(tmp_path, budget_ms=2000)
        async with running(tmp_path, pods=2, flags=(*FLAGS, "--kv-tokens", "2560"), config=config) as stack:
            await until(lambda: _all_confident(stack))
            for turn in range(12):
                for user in range(6):
                    status, _, _ = await stack.post(_said(user, turn))
                    assert status == 200
                    await asyncio.sleep(0.02)  # for the events to arrive
            records = await _records(stack, 48)
            hits = [one["cached_tokens"] or 0 for one in records]
            assert sum(hits) > 0
            assert _found(records) < 0.9, "memory is not short"
            exact = [one["predicted_cached_tokens"] == found for one, found in zip(records, hits, strict=True)]
            assert sum(exact) >= 0.95 * len(exact)

    asyncio.run(main())
