"""Endpoints that come and go under traffic, with a real Envoy: nobody loses a request."""

from __future__ import annotations

import asyncio
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import yaml
from tests.e2e.stack import Pod, Stack, chat, running, until

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(90)]


def _write(stack: Stack, pods: Sequence[Pod], draining: Sequence[Pod] = ()) -> None:
    part = stack.file.with_suffix(".part")
    part.write_text(yaml.safe_dump({"endpoints": [pod.entry | {"drain": pod in draining} for pod in pods]}))
    part.replace(stack.file)


async def _pods(stack: Stack) -> dict[str, Any]:
    return {pod["id"]: pod for pod in (await stack.admin("/pods"))["pods"]}


def test_an_endpoint_is_drained_then_removed_while_its_answers_are_under_way(tmp_path: Path) -> None:
    async def main() -> None:
        async with running(tmp_path, pods=2) as stack:
            first, second = stack.pods
            long = [asyncio.create_task(stack.post(chat(f"a story {i}", tokens=250))) for i in range(8)]

            async def both_busy() -> bool:
                return all(pod["in_flight"]["requests"] == 4 for pod in (await _pods(stack)).values())

            await until(both_busy)
            _write(stack, stack.pods, draining=[first])

            async def drains() -> bool:
                return bool((await _pods(stack))["default/pod-0"]["draining"])

            await until(drains)
            before = (await _pods(stack))["default/pod-0"]["in_flight"]["requests"]
            statuses = [(await stack.post(chat("hello")))[0] for _ in range(4)]
            records = (await stack.admin("/decisions?last=4"))["decisions"]
            assert statuses == [200] * 4
            assert {record["chosen"] for record in records} == {"default/pod-1"}
            assert before > 0, "its own go on"
            _write(stack, [second])

            async def gone() -> bool:
                return list(await _pods(stack)) == ["default/pod-1"]

            await until(gone)
            assert [status for status, _, _ in await asyncio.gather(*long)] == [200] * 8

            async def settled() -> bool:
                return await stack.metric("pointsman_requests_in_flight") == 0

            await until(settled)
            assert await stack.metric("pointsman_request_outcomes_total") == 12
            assert (await _pods(stack))["default/pod-1"]["in_flight"]["requests"] == 0

    asyncio.run(main())


def test_a_name_that_cannot_be_resolved_ends_the_command_with_words() -> None:
    async def main() -> None:
        words = ("epp", "--endpoint", "dns://no..name:80")
        pipe = asyncio.subprocess.PIPE
        child = await asyncio.create_subprocess_exec(sys.executable, "-m", "pointsman", *words, stderr=pipe)
        _, said = await child.communicate()
        assert child.returncode == 2
        assert "'no..name' is not a DNS name" in said.decode()

    asyncio.run(main())
