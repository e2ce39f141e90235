"""Where the Kubernetes tests take place: an emulated API server, or a real one with ``-m cluster`` and ``KUBECONFIG``.

Tests that run in both ask for nothing but what the API offers. On a real cluster pods are never scheduled, their status
is written by the test; the resource definitions of InferencePool and llm-d must be installed there.
"""

from __future__ import annotations

import asyncio
import os
import random
import uuid
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from typing import Any

import msgspec
import pytest
import yaml
from tests.kube.emulation import PODS, POOLS, Emulation

from pointsman.clock import SystemClock
from pointsman.datalayer.datastore import EndpointSpec
from pointsman.kube.api import ApiFailure, KubeError, Resource
from pointsman.kube.client import ApiClient, find_cluster
from pointsman.kube.source import KubeSource, PoolChoice
from pointsman.kube.watch import Timing
from pointsman.requestcontrol.policies import NO_POLICIES, ModelPolicies

POOL_GROUP = "inference.networking.k8s.io"
LLMD = "llm-d.ai"
OLD = "inference.networking.x-k8s.io"
OBJECTIVES = f"{LLMD}/v1alpha2/inferenceobjectives"
OBJECTIVES_V1 = f"{LLMD}/v1/inferenceobjectives"
REWRITES = f"{LLMD}/v1alpha2/inferencemodelrewrites"
EVERYTHING = (POOLS, OBJECTIVES, REWRITES)

FAST = Timing(first_retry=0.02, last_retry=0.2, absent_retry=0.2, relist=600.0, settled=0.2)
APP = {"app": "vllm"}

everywhere = pytest.mark.parametrize("place", ["emulated", pytest.param("real", marks=pytest.mark.cluster)])


class World:
    """One namespace of one cluster, and a client of the test's own."""

    def __init__(self, client: ApiClient, namespace: str, kubeconfig: Path, emulation: Emulation | None) -> None:
        self.client, self.namespace, self.kubeconfig = client, namespace, kubeconfig
        self._emulation = emulation

    @property
    def emulation(self) -> Emulation:
        assert self._emulation is not None, "this test is for the emulation only"
        return self._emulation

    def path(self, resource: str, name: str = "") -> str:
        *group, version, plural = resource.split("/")
        root = f"/apis/{group[0]}/{version}" if group else f"/api/{version}"
        path = f"{root}/namespaces/{self.namespace}/{plural}"
        return f"{path}/{name}" if name else path

    async def get(self, resource: str, name: str) -> dict[str, Any] | None:
        try:
            return msgspec.json.decode(await self.client.request("GET", self.path(resource, name)), type=dict)
        except ApiFailure as error:
            if error.status != 404:
                raise
            return None

    async def apply(
        self,
        resource: str,
        item: Mapping[str, Any],
        status: Mapping[str, Any] | None = None,
        *,
        keep_spec: bool = False,
    ) -> None:
        """Create or replace an object (with ``keep_spec`` all but its spec), then its status."""
        name = item["metadata"]["name"]
        try:
            raw = await self.client.request("POST", self.path(resource), body=msgspec.json.encode(item))
        except ApiFailure as error:
            if error.status != 409:
                raise
            old = await self.get(resource, name)
            assert old is not None
            meta = {**item["metadata"], "resourceVersion": old["metadata"]["resourceVersion"]}
            changed = {**item, "metadata": meta} | ({"spec": old["spec"]} if keep_spec else {})
            raw = await self.client.request("PUT", self.path(resource, name), body=msgspec.json.encode(changed))
        if status is not None:
            body = msgspec.json.encode({**msgspec.json.decode(raw), "status": status})
            await self.client.request("PUT", self.path(resource, name) + "/status", body=body)

    async def delete(self, resource: str, name: str) -> None:
        await self.client.request("DELETE", self.path(resource, name))

    async def pod(
        self,
        name: str,
        ip: str,
        *,
        ready: bool = True,
        labels: Mapping[str, str] = APP,
        annotations: Mapping[str, str] | None = None,
        finalizers: tuple[str, ...] = (),
    ) -> None:
        """Make or change a pod."""
        meta: dict[str, Any] = {"name": name, "labels": dict(labels), "finalizers": list(finalizers)}
        meta["annotations"] = dict(annotations or {})
        spec = {"schedulerName": "nobody", "containers": [{"name": "vllm", "image": "vllm"}]}
        item = {"apiVersion": "v1", "kind": "Pod", "metadata": meta, "spec": spec}
        await self.apply(PODS, item, pod_status(ip, ready=ready), keep_spec=True)

    async def pool(
        self,
        name: str = "pool",
        selector: Mapping[str, str] = APP,
        ports: tuple[int, ...] = (8000,),
        labels: Mapping[str, str] | None = None,
    ) -> None:
        """Make or change an InferencePool."""
        spec: dict[str, Any] = {
            "selector": {"matchLabels": dict(selector)},
            "targetPorts": [{"number": port} for port in ports],
            "endpointPickerRef": {"name": "epp", "port": {"number": 9002}, "failureMode": "FailOpen"},
        }
        meta = {"name": name, "labels": dict(labels or {})}
        item = {"apiVersion": f"{POOL_GROUP}/v1", "kind": "InferencePool", "metadata": meta, "spec": spec}
        await self.apply(POOLS, item)

    async def policy(self, resource: str, name: str, spec: Mapping[str, Any]) -> None:
        """Make or change an objective or a rewrite."""
        group, version, plural = resource.split("/")
        kind = {"inferenceobjectives": "InferenceObjective", "inferencemodelrewrites": "InferenceModelRewrite"}[plural]
        item = {"apiVersion": f"{group}/{version}", "kind": kind, "metadata": {"name": name}, "spec": dict(spec)}
        await self.apply(resource, item)

    @asynccontextmanager
    async def follower(self, choice: PoolChoice | None = None, timing: Timing = FAST) -> AsyncIterator[Follower]:
        """Something that follows the namespace; by default its pool named ``pool``."""
        client = ApiClient(find_cluster(self.kubeconfig))
        follower = Follower(client, choice or PoolChoice(namespace=self.namespace, name="pool"), timing)
        try:
            await follower.source.start(patience=10.0)
            yield follower
        finally:
            await follower.source.stop()
            await client.close()


class Follower:
    """A source and all that it ever said."""

    def __init__(self, client: ApiClient, choice: PoolChoice, timing: Timing) -> None:
        self.sets: list[list[EndpointSpec]] = []
        self.policies: ModelPolicies = NO_POLICIES
        self.reports: list[tuple[str, str]] = []
        self.source = KubeSource(
            client,
            choice,
            lambda specs: self.sets.append(list(specs)),
            self._use_policies,
            self._report,
            clock=SystemClock(),
            rng=random.Random(1),
            timing=timing,
        )

    def _use_policies(self, policies: ModelPolicies) -> None:
        self.policies = policies

    def _report(self, resource: Resource, text: str) -> None:
        self.reports.append((str(resource), text))

    @property
    def now(self) -> dict[str, str]:
        """The endpoints as they are now, ``ip:port`` by name."""
        return {spec.name: f"{spec.address}:{spec.port}" for spec in (self.sets[-1] if self.sets else [])}

    async def sees(self, *names: str) -> None:
        """Wait until exactly these endpoints are there."""
        await until(lambda: sorted(self.now) == sorted(names), lambda: f"{sorted(self.now)} are not {sorted(names)}")


def pod_status(ip: str, *, ready: bool = True) -> dict[str, Any]:
    return {
        "phase": "Running",
        "podIP": ip,
        "podIPs": [{"ip": ip}],
        "conditions": [{"type": "Ready", "status": "True" if ready else "False"}],
    }


async def until(condition: Callable[[], bool], explain: Callable[[], str] = str, seconds: float = 15.0) -> None:
    """Wait for a condition."""
    deadline = asyncio.get_running_loop().time() + seconds
    while not condition():
        assert asyncio.get_running_loop().time() < deadline, explain() or "the condition did not come true in time"
        await asyncio.sleep(0.01)


def write_kubeconfig(file: Path, url: str, namespace: str) -> Path:
    """A kubeconfig as ``kubectl`` writes it."""
    content = {
        "apiVersion": "v1",
        "kind": "Config",
        "current-context": "test",
        "clusters": [{"name": "c", "cluster": {"server": url}}],
        "users": [{"name": "u", "user": {"token": "secret"}}],
        "contexts": [{"name": "test", "context": {"cluster": "c", "user": "u", "namespace": namespace}}],
    }
    file.write_text(yaml.safe_dump(content))
    return file


def play(place: str, folder: Path, scenario: Callable[[World], Awaitable[None]], *served: str) -> None:
    """Run a scenario in an emulated cluster that serves these resources, or in the real one."""

    async def emulated() -> None:
        async with Emulation(*(served or EVERYTHING)) as emulation:
            kubeconfig = write_kubeconfig(folder / "kubeconfig", emulation.url, "default")
            await _enter(kubeconfig, "default", emulation)

    async def real() -> None:
        kubeconfig = Path(os.environ["KUBECONFIG"])
        namespace = f"pointsman-test-{uuid.uuid4().hex[:8]}"
        admin = ApiClient(find_cluster(kubeconfig))
        body = {"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": namespace}}
        await admin.request("POST", "/api/v1/namespaces", body=msgspec.json.encode(body))
        try:
            await _enter(kubeconfig, namespace, None)
        finally:
            with suppress(KubeError):
                await admin.request("DELETE", f"/api/v1/namespaces/{namespace}")
            await admin.close()

    async def _enter(kubeconfig: Path, namespace: str, emulation: Emulation | None) -> None:
        client = ApiClient(find_cluster(kubeconfig))
        try:
            await scenario(World(client, namespace, kubeconfig, emulation))
        finally:
            await client.close()

    asyncio.run(emulated() if place == "emulated" else real())
