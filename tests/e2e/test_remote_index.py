"""An indexer as a process of its own: a picker that asks it is as good as one that listens itself, and needs it not."""

from __future__ import annotations

import asyncio
import os
import signal
from pathlib import Path

import msgspec
import pytest
from tests.e2e.conversations import agreeing, hit_rate, last_records, patient_preset, talk
from tests.e2e.stack import Stack, chat, running, until

from pointsman.app.processes import PointsmanChild
from pointsman.app.up import free_port

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(180)]

FLAGS = ("--time-scale", "20", "--events-port", "-1")
DEADLINE_MS = 1000
"""Long, for a busy machine."""


class IndexerProcess:
    """A real ``pointsman indexer`` over the stack's pods."""

    def __init__(self, folder: Path, port: int, *flags: str) -> None:
        self.url = f"http://127.0.0.1:{port}"
        self._ready = folder / "indexer-ports.json"
        arguments = ["indexer", "--endpoints-file", str(folder / "endpoints.yaml"), "--port", str(port)]
        self.child = PointsmanChild(
            "indexer", [*arguments, "--ready-file", str(self._ready), *flags], log=folder / "indexer.log"
        )

    async def start(self) -> None:
        self._ready.unlink(missing_ok=True)
        await self.child.start(self._ready)

    async def kill(self) -> None:
        """SIGKILL, and no restart."""
        if self.child._task is not None:
            self.child._task.cancel()
        self.signal(signal.SIGKILL)
        assert self.child._process is not None
        await self.child._process.wait()

    def signal(self, number: int) -> None:
        assert self.child.pid is not None
        os.kill(self.child.pid, number)

    async def confident(self, stack: Stack) -> bool:
        """Whether every pod's stream is heard."""
        assert stack._session is not None
        try:
            async with stack._session.get(f"{self.url}/pods") as response:
                pods = msgspec.json.decode(await response.read())["pods"]
        except OSError:
            return False
        return len(pods) == len(stack.pods) and all(pod["confidence"] == 1.0 for pod in pods)


async def _degraded(stack: Stack, kind: str) -> float:
    page: str = await stack.admin("/metrics")
    wanted = f'pointsman_degraded_total{{kind="{kind}"}} '
    return sum(float(line.removeprefix(wanted)) for line in page.splitlines() if line.startswith(wanted))


async def _asked(stack: Stack) -> bool:
    """Whether the indexer answers again: the picker tries once a second."""
    before = [await _degraded(stack, kind) for kind in ("indexer-late", "indexer-error")]
    assert (await stack.post(chat("are you there?", tokens=1)))[0] == 200
    return before == [await _degraded(stack, kind) for kind in ("indexer-late", "indexer-error")]


async def _in_process(folder: Path) -> float:
    """Hit rate of the conversations when the picker listens itself."""
    async with running(folder, pods=4, flags=FLAGS, config=patient_preset(folder)) as stack:

        async def confident() -> bool:
            pods = (await stack.admin("/pods"))["pods"]
            return all(pod["kv_events"] and pod["kv_events"]["confidence"] == 1.0 for pod in pods)

        await talk(stack, range(12), range(3))
        await until(confident)
        await talk(stack, range(12), range(3, 8))
        return hit_rate(await last_records(stack, 60))


def test_as_good_as_an_index_of_ones_own_and_dispensable(tmp_path: Path) -> None:
    async def main() -> None:
        (tmp_path / "own").mkdir()
        own = await _in_process(tmp_path / "own")
        indexer = IndexerProcess(tmp_path, free_port())
        config = patient_preset(tmp_path, indexer.url, DEADLINE_MS)
        try:
            async with running(tmp_path, pods=4, flags=FLAGS, config=config) as stack:
                await indexer.start()
                await talk(stack, range(12), range(3))
                await until(lambda: indexer.confident(stack))
                await _as_good(stack, own)
                await indexer.kill()
                await _without(stack, range(8, 12), "indexer-error")
                await indexer.start()
                await until(lambda: indexer.confident(stack))
                await until(lambda: _asked(stack))
                await _as_good(stack, own)
                indexer.signal(signal.SIGSTOP)
                await _hanging(stack)
                indexer.signal(signal.SIGCONT)
                await until(lambda: _asked(stack))
                await _as_good(stack, own)
        finally:
            await indexer.child.stop(1.0)

    asyncio.run(main())


async def _as_good(stack: Stack, own: float) -> None:
    """Its answers are used, are right, and lead to as many hits."""
    assert set(await talk(stack, range(12), range(3, 4))) == {200}
    before = await stack.metric("pointsman_prefix_parity_tokens_total")
    assert set(await talk(stack, range(12), range(3, 8))) == {200}
    records = await last_records(stack, 60)
    assert agreeing(records) >= 0.95
    assert hit_rate(records) >= own - 0.02
    assert any(one["predicted_cached_tokens"] % 64 for one in records)  # exact; the guess counts in 64 tokens
    assert await stack.metric("pointsman_prefix_parity_tokens_total") > before


async def _without(stack: Stack, turns: range, kind: str) -> None:
    """Nobody notices, the guess decides, and that is counted."""
    before = await _degraded(stack, kind)
    assert set(await talk(stack, range(12), turns)) == {200}
    records = await last_records(stack, 12 * len(turns))
    assert await _degraded(stack, kind) >= before + len(records)
    assert hit_rate(records) > 0.5
    guessed = [one for one in records if one["predicted_cached_tokens"] + 1 < one["prompt_tokens"]]
    assert all(one["predicted_cached_tokens"] % 64 == 0 for one in guessed)


async def _hanging(stack: Stack) -> None:
    """A few wait for the deadline, then none but a probe a second."""
    before, loop = await _degraded(stack, "indexer-late"), asyncio.get_running_loop()
    start, count = loop.time(), 60
    for turn in range(count):
        status, _, _ = await stack.post(chat(f"one by one {turn} " * 30, tokens=1))
        assert status == 200
    seconds = loop.time() - start
    records = await last_records(stack, count)
    waited = [one for one in records if one["scheduling_ms"] >= DEADLINE_MS]
    assert 5 <= len(waited) <= 5 + seconds + 1
    assert all(one["scheduling_ms"] < DEADLINE_MS + 2500 for one in waited)  # and the time of the tokens
    assert await _degraded(stack, "indexer-late") >= before + count


def test_the_briefs_configuration_with_prompts_tokenized_by_the_indexer(tmp_path: Path) -> None:
    async def main() -> None:
        indexer = IndexerProcess(tmp_path, free_port(), "--tokenize-url", "pool")
        config = tmp_path / "brief.yaml"
        config.write_text(
            f"""
scorers:
  - {{type: prefix-aware, weight: 100, cacheIndexerURL: '{indexer.url}', cacheIndexerTimeoutMs: 2000}}
  - {{type: load-aware, weight: 50}}
selection: {{type: max-score}}
observeShare: 1.0
"""
        )
        try:
            async with running(tmp_path, pods=3, flags=FLAGS, config=str(config)) as stack:
                await indexer.start()
                statuses = await talk(stack, range(6), range(3))
                await until(lambda: indexer.confident(stack))
                statuses += await talk(stack, range(6), range(3, 7))
                assert set(statuses) == {200}
                records = await last_records(stack, 24)
                assert agreeing(records) >= 0.95
                assert any(one["predicted_cached_tokens"] % 64 for one in records)
                assert not await _degraded(stack, "indexer-no-tokens")
        finally:
            await indexer.child.stop(1.0)

    asyncio.run(main())
