"""Conversations through a stack, and how well their cached tokens were foretold."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

from tests.e2e.stack import Stack, chat, until

from pointsman.framework.loader import read_source

BLOCK = 16


def patient_preset(folder: Path, indexer: str = "", deadline_ms: int = 0) -> str:
    """The precise preset with every answer looked at, and time for tokens on a busy machine; its index elsewhere."""
    text, _ = read_source("precise")
    changes = {"budgetMs: 50": "budgetMs: 2000"}
    if indexer:
        changes["precise-prefix-cache-producer"] = "remote-prefix-cache-producer"
        changes["{speculativeIndexing: true}"] = f"{{cacheIndexerURL: '{indexer}', timeoutMs: {deadline_ms}}}"
    for old, new in changes.items():
        assert old in text
        text = text.replace(old, new)
    path = folder / "precise.yaml"
    path.write_text(text + "observeShare: 1.0\n")
    return str(path)


async def talk(stack: Stack, users: range, turns: range) -> list[int]:
    """Statuses of conversations side by side, each a growing prompt behind a system prompt that four users share."""

    async def one(user: int) -> list[int]:
        statuses = []
        for turn in turns:
            text = f"system {user % 4} " * 150 + "".join(f"user {user} turn {i} " * 20 for i in range(turn + 1))
            status, _, _ = await stack.post(chat(text, tokens=8))
            statuses.append(status)
            await asyncio.sleep(0.05)
        return statuses

    answers = await asyncio.gather(*(one(user) for user in users))
    return [status for statuses in answers for status in statuses]


async def last_records(stack: Stack, count: int) -> list[dict[str, Any]]:
    """Decision records of requests that are over."""

    async def over() -> bool:
        records = (await stack.admin(f"/decisions?last={count}"))["decisions"]
        return all(record["cause"] is not None for record in records)

    await until(over)
    records: list[dict[str, Any]] = (await stack.admin(f"/decisions?last={count}"))["decisions"]
    assert len(records) == count
    return records


def agreeing(records: list[dict[str, Any]]) -> float:
    """Share of the requests whose cached tokens were foretold to a block."""
    close: list[bool] = [abs(one["predicted_cached_tokens"] - (one["cached_tokens"] or 0)) <= BLOCK for one in records]
    return sum(close) / len(close)


def hit_rate(records: list[dict[str, Any]]) -> float:
    """Cached share of all prompt tokens."""
    return float(sum(one["cached_tokens"] for one in records) / sum(one["prompt_tokens"] for one in records))
