"""From no pod to eight and back under traffic: no request is lost that a pod could have taken.

Pods are simulated in this process, at addresses of their own: the pods of an InferencePool differ by address, not by
port. Each listens before it is published and stops when nothing is on its way to it any more, as a pod with a
readiness probe and a grace period does.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any, Protocol

import msgspec
import pytest
import yaml
from tests.e2e.stack import MODEL, Stack, chat, until
from tests.kube.emulation import PODS, Emulation
from tests.kube.world import EVERYTHING, REWRITES, World, write_kubeconfig

from pointsman.app.discovery import EndpointOptions
from pointsman.app.kubernetes import KubeOptions
from pointsman.app.up import free_port
from pointsman.errors import StartupError
from pointsman.kube.client import ApiClient, find_cluster
from pointsman.sim.fleet import FleetOptions
from pointsman.sim.server import SimulatedPod

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(90)]

SIZE = 8
PERIOD = 0.04
"""Seconds between two requests."""


class Place(Protocol):
    """Where pods are made known."""

    async def open(self, port: int) -> EndpointOptions: ...
    async def publish(self, pod: SimulatedPod) -> None: ...
    async def withdraw(self, pod: SimulatedPod) -> None: ...
    async def close(self) -> None: ...


class FilePlace:
    """A file."""

    def __init__(self, folder: Path) -> None:
        self._file = folder / "pods.yaml"
        self._pods: dict[str, dict[str, Any]] = {}

    async def open(self, port: int) -> EndpointOptions:
        self._write()
        return EndpointOptions(file=self._file)

    async def publish(self, pod: SimulatedPod) -> None:
        self._pods[pod.options.name] = {"name": pod.options.name, "address": pod.options.host, "port": pod.port}
        self._write()

    async def withdraw(self, pod: SimulatedPod) -> None:
        del self._pods[pod.options.name]
        self._write()

    async def close(self) -> None:
        """Nothing is open."""

    def _write(self) -> None:
        part = self._file.with_suffix(".part")
        part.write_text(yaml.safe_dump({"endpoints": list(self._pods.values())}))
        part.replace(self._file)


class KubePlace:
    """An InferencePool in an emulated cluster."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self.emulation = Emulation(*EVERYTHING)
        self.world: World

    async def open(self, port: int) -> EndpointOptions:
        await self.emulation.__aenter__()
        kubeconfig = write_kubeconfig(self._folder / "kubeconfig", self.emulation.url, "default")
        self.world = World(ApiClient(find_cluster(kubeconfig)), "default", kubeconfig, self.emulation)
        await self.world.pool(ports=(port,))
        return EndpointOptions(kube=KubeOptions(pool_name="pool", kubeconfig=kubeconfig))

    async def publish(self, pod: SimulatedPod) -> None:
        await self.world.pod(pod.options.name, pod.options.host, ready=False)  # as it starts
        await self.world.pod(pod.options.name, pod.options.host, finalizers=("test/grace",))

    async def withdraw(self, pod: SimulatedPod) -> None:
        await self.world.delete(PODS, pod.options.name)

    async def close(self) -> None:
        await self.world.client.close()
        await self.emulation.__aexit__(None, None, None)


class Traffic:
    """An open loop of requests, and what became of each."""

    def __init__(self, stack: Stack) -> None:
        self._stack = stack
        self.ended: list[tuple[float, float, int, dict[str, str], bytes]] = []
        self._under_way: set[asyncio.Task[None]] = set()
        self._task = asyncio.create_task(self._run())

    async def _run(self) -> None:
        while True:
            task = asyncio.create_task(self._one())
            self._under_way.add(task)
            task.add_done_callback(self._under_way.discard)
            await asyncio.sleep(PERIOD)

    async def _one(self) -> None:
        began = now()
        status, headers, body = await self._stack.post(chat("hello", tokens=2))
        self.ended.append((began, now(), status, headers, body))

    async def settle(self) -> None:
        """Wait for all that is under way at this moment."""
        if self._under_way:
            await asyncio.wait(set(self._under_way), timeout=30)

    async def stop(self) -> None:
        self._task.cancel()
        await self.settle()


def now() -> float:
    return asyncio.get_running_loop().time()


async def _start_pods() -> list[SimulatedPod]:
    """Eight pods at eight addresses and one port, which is free on all of them."""
    for _ in range(20):
        options = FleetOptions(pods=SIZE, model=MODEL, time_scale=20.0)
        port = free_port()
        pods = [
            SimulatedPod(msgspec.structs.replace(options.pod(i), host=f"127.0.0.{i + 2}", port=port))
            for i in range(SIZE)
        ]
        try:
            for pod in pods:
                await pod.start()
        except StartupError:
            await asyncio.gather(*(pod.stop() for pod in pods))
            continue
        return pods
    raise AssertionError("no port is free")


@asynccontextmanager
async def _scene(folder: Path, place: Place, **options: Any) -> AsyncIterator[tuple[Stack, list[SimulatedPod]]]:
    pods = await _start_pods()
    stack: Stack | None = None
    try:
        endpoints = await place.open(pods[0].port)
        stack = Stack(folder, [], endpoints=endpoints, **options)
        await stack.start()
        yield stack, pods
    finally:
        if stack is not None:
            await stack.stop()
        await asyncio.gather(*(pod.stop() for pod in pods))
        await place.close()


async def _known(stack: Stack) -> int:
    return len((await stack.admin("/pods"))["pods"])


async def _scale_up(stack: Stack, place: Place, pods: list[SimulatedPod], known: int = 0) -> None:
    """Publish the pods one by one."""
    for count, pod in enumerate(pods, known + 1):
        await place.publish(pod)

        async def arrived(count: int = count) -> bool:
            return await _known(stack) == count

        await until(arrived)


async def _scale_down(stack: Stack, place: Place, pods: list[SimulatedPod], traffic: Traffic) -> tuple[float, float]:
    """Withdraw the pods one by one; answers until when requests had to be served, and since when there was no pod."""
    last = empty = 0.0
    for left, pod in zip(range(len(pods) - 1, -1, -1), pods, strict=True):
        if left == 0:
            last = now()
            await traffic.settle()  # what was sent before this moment could still be taken
        await place.withdraw(pod)

        async def gone(left: int = left) -> bool:
            return await _known(stack) == left

        await until(gone)
        empty = now()
        await traffic.settle()
        await pod.stop()
    return last, empty


@pytest.mark.parametrize("kind", [FilePlace, KubePlace])
def test_from_none_to_eight_and_back_under_traffic(tmp_path: Path, kind: type[FilePlace | KubePlace]) -> None:
    async def main() -> None:
        place = kind(tmp_path)
        async with _scene(tmp_path, place) as (stack, pods):
            traffic = Traffic(stack)
            begin = now()
            await asyncio.sleep(0.5)
            published = now()
            await _scale_up(stack, place, pods[:1])

            async def answered() -> bool:  # Envoy hears of the first pod on a way of its own
                return any(status == 200 for _, _, status, _, _ in traffic.ended)

            await until(answered)
            first = now()
            await _scale_up(stack, place, pods[1:], known=1)
            await asyncio.sleep(1.0)
            last, empty = await _scale_down(stack, place, pods, traffic)
            await asyncio.sleep(0.5)
            await traffic.stop()
        assert {status for _, _, status, _, _ in traffic.ended} == {200, 503}, "nothing else, no broken connection"
        served = [entry for entry in traffic.ended if first <= entry[0] <= last]
        assert len(served) > SIZE
        assert {entry[2] for entry in served} == {200}
        assert {entry[3]["x-inference-pod"] for entry in served} == {pod.options.name for pod in pods}
        idle = [entry for entry in traffic.ended if begin <= entry[1] < published or entry[0] > empty]
        assert len(idle) > 4
        for _, _, status, headers, body in idle:
            assert status == 503
            assert headers["x-llm-d-request-dropped-reason"] == "rejected-no-endpoints"
            assert b"failed to find endpoint candidates" in body

    asyncio.run(main())


def test_a_rewrite_of_the_cluster_reaches_the_pods_and_not_the_client(tmp_path: Path) -> None:
    async def main() -> None:
        place = KubePlace(tmp_path)
        async with _scene(tmp_path, place) as (stack, pods):
            await _scale_up(stack, place, pods[:1])
            status, _, _ = await stack.post(chat("hello", model="alias"))
            assert status == 404, "the pods do not know it"
            rules = [
                {"matches": [{"model": {"type": "Exact", "value": "alias"}}], "targets": [{"modelRewrite": MODEL}]}
            ]
            await place.world.policy(REWRITES, "canary", {"poolRef": {"name": "pool"}, "rules": rules})

            async def in_force() -> bool:
                return (await stack.post(chat("hello", model="alias")))[0] == 200

            await until(in_force)
            status, _, body = await stack.post(chat("hello", model="alias"))
            assert status == 200
            assert msgspec.json.decode(body)["model"] == "alias"

    asyncio.run(main())
