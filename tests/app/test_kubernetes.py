"""Kubernetes wired into the picker: flags to what is followed, readiness, metrics, policies."""

from __future__ import annotations

import asyncio
import sys
from pathlib import Path
from typing import Any

import msgspec
import pytest
from tests.kube.emulation import LEASES, PODS, POOLS, Emulation
from tests.kube.world import EVERYTHING, OBJECTIVES, World, play, until

from pointsman.app.discovery import Discovery, EndpointOptions
from pointsman.app.kubernetes import KubeOptions, Kubernetes
from pointsman.app.pages import console_sources
from pointsman.app.picker import Picker, PickerOptions
from pointsman.app.transports import TransportOptions
from pointsman.datalayer.datastore import EndpointSpec
from pointsman.errors import ConfigError
from pointsman.kube.objects import Pool
from pointsman.kube.source import PoolChoice


def test_options_to_what_is_followed() -> None:
    assert KubeOptions(pool_name="p").choice("ns") == PoolChoice(namespace="ns", name="p")
    standalone = KubeOptions(selector=" app = vllm ,tier==decode,", target_ports=(8000, 8001)).choice("ns")
    assert standalone.standalone == Pool("standalone", "ns", {"app": "vllm", "tier": "decode"}, (8000, 8001))
    assert standalone.name == ""


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({}, "--pool-name: name a pool"),
        ({"selector": "app=vllm"}, "--endpoint-target-ports: give 1 to 8"),
        ({"selector": "app=vllm", "target_ports": (1, 1)}, "--endpoint-target-ports"),
        ({"target_ports": (1,)}, "--endpoint-selector: .*every pod"),
        ({"selector": "app in (a,b)", "target_ports": (1,)}, "--endpoint-selector: .*not key=value"),
        ({"selector": "app!=a", "target_ports": (1,)}, "--endpoint-selector: .*not key=value"),
    ],
)
def test_options_that_do_not_say(options: dict[str, Any], words: str) -> None:
    with pytest.raises(ConfigError, match=words):
        KubeOptions(**options).choice("ns")


def test_flags_of_a_child_process() -> None:
    options = KubeOptions(pool_name="p", pool_namespace="n", kubeconfig=Path("k"), leader_election=True)
    assert EndpointOptions(kube=options).flags() == [
        *("--pool-name", "p", "--pool-namespace", "n", "--pool-group", "inference.networking.k8s.io"),
        *("--kubeconfig", "k", "--leader-election"),
    ]
    assert "8000,8001" in KubeOptions(selector="a=b", target_ports=(8000, 8001)).flags()


def test_it_is_a_source_like_any_other(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NAMESPACE", "from-the-environment")

    async def scenario(world: World) -> None:
        world.namespace = "from-the-environment"
        await world.pool()
        await world.pod("a", "10.0.0.1")
        sets: list[list[EndpointSpec]] = []
        kube = KubeOptions(pool_name="pool", kubeconfig=world.kubeconfig, leader_election=True)
        options = EndpointOptions(kube=kube)
        discovery = Discovery(options, lambda specs: sets.append(list(specs)), lambda _: None)
        await discovery.start()
        assert [spec.id for spec in sets[-1]] == ["from-the-environment/a-rank-0"]
        await discovery.stop()
        assert await world.get(LEASES, "pointsman-pool") is None, "only pickers stand for election"

    play("emulated", tmp_path, scenario)


def test_without_the_extra_it_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delitem(sys.modules, "pointsman.kube.client", raising=False)
    monkeypatch.setitem(sys.modules, "lightkube.config.client_adapter", None)
    kubernetes = Kubernetes(KubeOptions(pool_name="p"), lambda _: None, lambda _: None)
    with pytest.raises(ConfigError, match=r"pointsman\[kubernetes\]"):
        asyncio.run(kubernetes.start())
    assert not kubernetes.ready


def _picker(kubeconfig: Path, **options: Any) -> Picker:
    kube = KubeOptions(pool_name="pool", kubeconfig=kubeconfig, **options.pop("kube", {}))
    endpoints = EndpointOptions(kube=kube)
    return Picker(PickerOptions(endpoints=endpoints, transport=TransportOptions(port=0), admin_port=0, **options))


def test_a_picker_is_ready_when_it_knows_that_there_is_nothing(tmp_path: Path) -> None:
    file = tmp_path / "policies.yaml"
    manifest = "apiVersion: llm-d.ai/v1\nkind: InferenceObjective\nmetadata: {{name: o}}\nspec: {{priority: {}}}\n"
    file.write_text(manifest.format(5))

    async def scenario(world: World) -> None:
        await world.policy(OBJECTIVES, "o", {"priority": 1, "poolRef": {"name": "pool"}})
        await world.policy(OBJECTIVES, "p", {"priority": 2, "poolRef": {"name": "pool"}})
        picker = _picker(world.kubeconfig, policies=file)
        await picker.start()
        try:
            assert not picker.ready(), "there is no pool"
            await world.pool()
            await until(picker.ready)
            assert picker.datastore.all() == ()
            assert picker.director.policies.objectives == {"o": 5, "p": 2}
            await world.pod("a", "127.0.0.1")
            await until(lambda: len(picker.datastore.all()) == 1)
            page = console_sources(picker).metrics()().decode()
            assert 'pointsman_kube_objects{resource="pods.v1"} 1.0' in page
            assert "pointsman_leader" not in page
            file.write_text("kind: nonsense")
            await world.policy(OBJECTIVES, "p", {"priority": 3, "poolRef": {"name": "pool"}})
            await until(lambda: picker.director.policies.priority("p") == 3)
            file.write_text(manifest.format(6))
            await until(lambda: picker.director.policies.priority("o") == 6)
            await world.delete(POOLS, "pool")
            await until(lambda: not picker.ready())
        finally:
            await picker.stop(drain=0)

    play("emulated", tmp_path, scenario)


def test_of_two_pickers_with_an_election_one_is_ready(tmp_path: Path) -> None:
    async def scenario(world: World) -> None:
        await world.pool()
        pickers = [_picker(world.kubeconfig, kube={"leader_election": True}) for _ in range(2)]
        for picker in pickers:
            await picker.start()
        try:
            await until(lambda: any(picker.ready() for picker in pickers))
            leader = next(picker for picker in pickers if picker.ready())
            other = next(picker for picker in pickers if picker is not leader)
            assert not other.ready()
            assert "pointsman_leader 1.0" in console_sources(leader).metrics()().decode()
            lease = await world.get(LEASES, "pointsman-pool")
            assert lease is not None
            await leader.stop(drain=0)
            await until(other.ready)
        finally:
            for picker in pickers:
                await picker.stop(drain=0)

    play("emulated", tmp_path, scenario)


def test_a_picker_outlives_its_api_server(tmp_path: Path) -> None:
    async def scenario(world: World) -> None:
        await world.pool()
        await world.pod("a", "127.0.0.1")
        picker = _picker(world.kubeconfig)
        await picker.start()
        try:
            await world.emulation.stop()
            await until(lambda: 'watched{resource="pods.v1"} 0.0' in console_sources(picker).metrics()().decode())
            assert len(picker.datastore.all()) == 1
            assert picker.ready()
            world.emulation._remove(PODS, "default", "a")
            await world.emulation.start()
            await until(lambda: not picker.datastore.all())
        finally:
            await picker.stop(drain=0)

    play("emulated", tmp_path, scenario)


def test_policies_without_kubernetes(tmp_path: Path) -> None:
    file = tmp_path / "policies.yaml"
    options = PickerOptions(
        endpoints=EndpointOptions(urls=("http://127.0.0.1:1",)),
        transport=TransportOptions(port=0),
        admin_port=0,
        policies=file,
    )

    async def main() -> None:
        with pytest.raises(ConfigError, match="does not exist"):
            await Picker(options).start()
        file.write_text("kind: nonsense")
        with pytest.raises(ConfigError, match="apiVersion"):
            await Picker(options).start()
        file.write_text("apiVersion: llm-d.ai/v1\nkind: InferenceObjective\nmetadata: {name: o}\nspec: {priority: 1}\n")
        picker = Picker(options)
        await picker.start()
        assert picker.director.policies.objectives == {"o": 1}
        await picker.stop(drain=0)

    asyncio.run(main())


def test_the_emulation_conflicts_as_the_real_thing(tmp_path: Path) -> None:
    """What the election rests upon."""
    from pointsman.kube.api import ApiFailure  # noqa: PLC0415 - one test

    async def scenario(world: World) -> None:
        await world.apply(LEASES, {"metadata": {"name": "l"}})
        old = await world.get(LEASES, "l")
        await world.client.request("PUT", world.path(LEASES, "l"), body=msgspec.json.encode(old))
        with pytest.raises(ApiFailure, match="409"):
            await world.client.request("PUT", world.path(LEASES, "l"), body=msgspec.json.encode(old))

    play("emulated", tmp_path, scenario)
    assert {LEASES, PODS} <= Emulation(*EVERYTHING).served
