"""``pointsman up`` as a whole: real Envoy, real picker, simulated pods, and everything that goes wrong."""

from __future__ import annotations

import asyncio
import os
import signal
import sys
from collections import Counter
from pathlib import Path
from typing import Any

import aiohttp
import pytest
from tests.e2e.stack import Pod, Stack, chat, running, until

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(90)]

PLUGIN = '''"""Prefer the pods of one tier."""
from pointsman.framework.plugin import Params, Scorer, register


class TierParams(Params):
    prefer: str = "pod-1"


@register("tier-scorer")
class TierScorer(Scorer[TierParams]):
    def score(self, request, endpoints, state):
        {body}
        return [1.0 if self.params.prefer in e.id else 0.0 for e in endpoints]
'''
CONFIG = "pluginPaths: [tier.py]\nscorers:\n- {type: tier-scorer, weight: 1}\nselection: {type: max-score}\n"


async def _chosen(stack: Stack, count: int) -> Counter[str]:
    data = await stack.admin(f"/decisions?last={count}")
    return Counter(record["chosen"] for record in data["decisions"])


def test_a_prefix_returns_to_its_pod_and_the_record_says_why(tmp_path: Path) -> None:
    async def main() -> None:
        async with running(tmp_path, pods=3, flags=("--time-scale", "20")) as stack:
            served = []
            for turn in range(4):
                status, headers, body = await stack.post(chat("x" * 8000 + f" question {turn}"))
                assert status == 200, body
                served.append(headers["x-inference-pod"])
            assert len(set(served)) == 1

            async def last() -> dict[str, Any]:
                record: dict[str, Any] = (await stack.admin("/decisions?last=1"))["decisions"][0]
                return record

            async def over() -> bool:  # Envoy tells us of the end when the client already has it
                return (await last())["cause"] is not None

            await until(over)
            record = await last()
            assert record["status"] == 200
            assert record["cause"] == "complete"
            assert record["unit"] == "ms"
            assert record["predicted_cached_tokens"] > 1500
            assert len(record["candidates"]) == 3
            for candidate in record["candidates"]:
                assert sum(candidate["terms"].values()) == pytest.approx(candidate["score"])
            pods = (await stack.admin("/pods"))["pods"]
            assert sum(pod["in_flight"]["requests"] for pod in pods) == 0

    asyncio.run(main())


def test_a_burst_of_equal_requests_spreads_evenly_over_an_idle_fleet(tmp_path: Path) -> None:
    async def main() -> None:
        async with running(tmp_path, pods=8, flags=("--time-scale", "20")) as stack:
            answers = await asyncio.gather(*(stack.post(chat("hello")) for _ in range(64)))
            assert {status for status, _, _ in answers} == {200}
            chosen = await _chosen(stack, 64)
            assert min(chosen.values()) >= 7, chosen
            assert max(chosen.values()) <= 9, chosen
            assert len(chosen) == 8

    asyncio.run(main())


def test_killing_the_picker_costs_nobody_a_request_and_it_comes_back(tmp_path: Path) -> None:
    async def main() -> None:
        async with running(tmp_path, pods=2, flags=("--time-scale", "20")) as stack:
            assert stack.up is not None
            statuses: Counter[int] = Counter()

            async def traffic() -> None:
                for i in range(80):
                    status, _, _ = await stack.post(chat(f"request {i}"))
                    statuses[status] += 1
                    await asyncio.sleep(0.02)

            load = asyncio.create_task(traffic())
            await asyncio.sleep(0.4)
            pid = stack.up.picker.pid
            assert pid is not None
            os.kill(pid, signal.SIGKILL)
            await load
            assert statuses == {200: 80}

            async def back() -> bool:
                return stack.up is not None and stack.up.picker.pid not in (None, pid) and await _serves(stack)

            await until(back)
            await stack.post(chat("after"))
            assert sum((await _chosen(stack, 10)).values()) >= 1

    asyncio.run(main())


def test_a_hung_picker_costs_a_timeout_and_a_dead_envoy_comes_back(tmp_path: Path) -> None:
    async def main() -> None:
        async with running(tmp_path, pods=2, flags=("--time-scale", "20"), message_timeout_ms=200) as stack:
            assert stack.up is not None
            pid, envoy = stack.up.picker.pid, stack.up.envoy.pid
            assert pid is not None
            assert envoy is not None
            os.kill(pid, signal.SIGSTOP)
            try:
                assert [(await stack.post(chat(f"request {i}")))[0] for i in range(3)] == [200, 200, 200]
            finally:
                os.kill(pid, signal.SIGCONT)
            os.kill(envoy, signal.SIGKILL)

            async def back() -> bool:
                return stack.up is not None and stack.up.envoy.pid not in (None, envoy)

            await until(back)

            async def answers() -> bool:
                return (await stack.post(chat("after")))[0] == 200

            await until(answers)

    asyncio.run(main())


async def _serves(stack: Stack) -> bool:
    # the restarted picker keeps its ext-proc port; its admin port is a new one when 0 was asked for
    assert stack.up is not None
    stack.up.refresh_ports()
    try:
        return bool((await stack.admin("/pods"))["pods"])
    except OSError:
        return False


def test_killing_a_pod_fails_only_what_was_in_flight_there(tmp_path: Path) -> None:
    async def main() -> None:
        async with running(tmp_path, pods=3) as stack:
            victim = stack.pods[1]
            results: list[tuple[float, int]] = []
            loop = asyncio.get_running_loop()

            async def one(i: int) -> None:
                began = loop.time()
                status, _, _ = await stack.post(chat(f"request {i}", tokens=30))
                results.append((began, status))

            tasks = []
            killed_at = in_flight = 0.0
            for i in range(120):
                if i == 50:
                    pods = (await stack.admin("/pods"))["pods"]
                    in_flight = next(p["in_flight"]["requests"] for p in pods if "pod-1" in p["id"])
                    await victim.kill()
                    killed_at = loop.time()
                tasks.append(asyncio.create_task(one(i)))
                await asyncio.sleep(0.03)
            await asyncio.gather(*tasks)
            failed = [began for began, status in results if status != 200]
            assert len(failed) <= in_flight + 1
            assert all(began <= killed_at + 1.0 for began in failed)
            pods = (await stack.admin("/pods"))["pods"]
            assert [p["healthy"] for p in pods if "pod-1" in p["id"]] == [False]
            late = (await stack.admin("/decisions?last=20"))["decisions"]
            assert all("pod-1" not in record["destination"] for record in late)
            assert victim.hostport not in {record["hostport"] for record in late}

    asyncio.run(main())


def test_pods_come_and_go_with_the_file_without_a_failed_request(tmp_path: Path) -> None:
    async def main() -> None:
        async with running(tmp_path, pods=3, flags=("--time-scale", "20")) as stack:
            statuses: Counter[int] = Counter()
            stop = asyncio.Event()

            async def traffic() -> None:
                i = 0
                while not stop.is_set():
                    i += 1
                    statuses[(await stack.post(chat(f"request {i}")))[0]] += 1

            load = asyncio.create_task(traffic())

            async def known(count: int) -> bool:
                return len((await stack.admin("/pods"))["pods"]) == count

            stack.write_endpoints(stack.pods[:1])
            await until(lambda: known(1))
            stack.file.write_text("endpoints: [{name: oops")  # a half-written file changes nothing
            await asyncio.sleep(0.6)
            assert await known(1)
            stack.write_endpoints(stack.pods)
            await until(lambda: known(3))
            await asyncio.sleep(0.3)
            stop.set()
            await load
            assert set(statuses) == {200}

    asyncio.run(main())


def test_a_user_plugin_is_loaded_and_reloaded_and_its_exception_costs_only_its_say(tmp_path: Path) -> None:
    async def main() -> None:
        (tmp_path / "tier.py").write_text(PLUGIN.format(body="pass"))
        (tmp_path / "policy.yaml").write_text(CONFIG)
        config = str(tmp_path / "policy.yaml")
        async with running(tmp_path, pods=3, flags=("--time-scale", "20"), config=config) as stack:

            async def goes_to(*names: str) -> bool:
                for i in range(6):
                    assert (await stack.post(chat(f"request {i}")))[0] == 200
                return set(await _chosen(stack, 6)) == {f"default/{name}" for name in names}

            assert await goes_to("pod-1")
            (tmp_path / "tier.py").write_text(PLUGIN.format(body="pass").replace('"pod-1"', '"pod-2"'))
            await until(lambda: goes_to("pod-2"))
            (tmp_path / "tier.py").write_text(PLUGIN.format(body='raise RuntimeError("oops")'))
            await until(lambda: goes_to("pod-0", "pod-1", "pod-2"))
            before = await stack.metric("pointsman_plugin_errors_total")
            assert await goes_to("pod-0", "pod-1", "pod-2")
            assert await stack.metric("pointsman_plugin_errors_total") == before + 6
            before = await stack.metric("pointsman_config_loads_total")
            (tmp_path / "policy.yaml").write_text(CONFIG.replace("weight: 1", "weight: -1"))

            async def refused() -> bool:
                return await stack.metric("pointsman_config_loads_total") > before

            await until(refused)
            assert await goes_to("pod-0", "pod-1", "pod-2")

    asyncio.run(main())


BAD_BODIES: list[tuple[bytes, int]] = [
    (b"{", 400),
    (b"", 400),
    (b"[]", 400),
    (b'{"messages": []}', 400),
    (b'{"model": 5, "messages": [{"role": "user", "content": "x"}]}', 400),
    (b'{"model": "", "messages": [{"role": "user", "content": "x"}]}', 400),
    (b'{"model": "m", "messages": "x"}', 400),
    (b"\xff\xfe", 400),
    (b"[" * 100_000, 400),
    (b'{"model": "no-such-model", "messages": [{"role": "user", "content": "x"}]}', 503),
]


def test_bad_requests_get_a_clear_refusal_and_no_stack_trace(tmp_path: Path) -> None:
    async def main() -> None:
        async with running(tmp_path, pods=1, max_body_bytes=300_000) as stack:
            for body, expected in [*BAD_BODIES, (b"x" * 400_000, 413)]:
                status, headers, answer = await stack.post(body)
                assert status == expected, (body[:60], status, answer)
                assert b"Traceback" not in answer
                assert b"pointsman" not in answer.lower()
                assert answer
                if expected == 503:
                    assert headers["x-llm-d-request-dropped-reason"] == "rejected-no-endpoints"
            assert (await stack.post(chat("still here")))[0] == 200
            assert (await stack.get("/v1/models"))[0] == 200

    asyncio.run(main())


def test_no_endpoint_left_is_503_with_the_reason(tmp_path: Path) -> None:
    async def main() -> None:
        async with running(tmp_path, pods=1) as stack:
            await stack.pods[0].kill()

            async def refused() -> bool:
                status, headers, _ = await stack.post(chat("x"))
                return status == 503 and headers.get("x-llm-d-request-dropped-reason") == "rejected-no-endpoints"

            await until(refused)

    asyncio.run(main())


def test_sigterm_lets_requests_finish_and_leaves_nothing_behind(tmp_path: Path) -> None:
    async def main() -> None:
        pod = Pod(tmp_path, "pod-0")
        stack = Stack(tmp_path, [pod])
        await pod.start()
        stack.write_endpoints([pod])
        process = await asyncio.create_subprocess_exec(
            *(sys.executable, "-m", "pointsman", "up", "--endpoints-file", str(stack.file), "--port", "0"),
            *("--admin-port", "0", "--drain", "10", "--log-level", "error", "--message-timeout-ms", "3000"),
            stderr=asyncio.subprocess.PIPE,
        )
        try:
            assert process.stderr is not None
            line = (await process.stderr.readline()).decode()
            url = line.split()[1]
            async with aiohttp.ClientSession() as session:
                slow = asyncio.create_task(_post(session, url, chat("slow", tokens=100)))
                await asyncio.sleep(0.5)
                children = _children(process.pid)
                assert len(children) == 2  # the picker and Envoy
                process.terminate()
                status, body = await slow
            assert status == 200, body
            assert await asyncio.wait_for(process.wait(), 20) == 0
            assert not _alive(children)
        finally:
            if process.returncode is None:
                process.kill()
            await pod.child.stop(1.0)

    asyncio.run(main())


async def _post(session: aiohttp.ClientSession, url: str, body: dict[str, Any]) -> tuple[int, bytes]:
    async with session.post(url, json=body) as response:
        return response.status, await response.read()


def _children(pid: int) -> list[str]:
    return Path(f"/proc/{pid}/task/{pid}/children").read_text().split()


def _alive(pids: list[str]) -> list[str]:
    return [pid for pid in pids if Path(f"/proc/{pid}").exists()]
