"""Kubernetes wired: a source of endpoints, the policies beside them, and who leads."""

from __future__ import annotations

import asyncio
import os
import socket
import uuid
from collections.abc import Callable
from pathlib import Path
from random import Random
from typing import TYPE_CHECKING

import msgspec

from pointsman.clock import SystemClock
from pointsman.datalayer.sources import Refuse, Use
from pointsman.errors import ConfigError
from pointsman.kube.api import Resource
from pointsman.kube.lease import LeaseKeeper
from pointsman.kube.objects import POOL_GROUP, Pool, make_pool
from pointsman.kube.source import KubeSource, PoolChoice
from pointsman.kube.watch import Timing, WatchStats
from pointsman.observability.kube_metrics import KubeMetrics, ResourceState
from pointsman.observability.logging import logger
from pointsman.requestcontrol.policies import ModelPolicies

if TYPE_CHECKING:
    from pointsman.kube.client import ApiClient


class KubeOptions(msgspec.Struct, frozen=True, kw_only=True):
    """What the command line says about Kubernetes: a pool, or a selector with ports."""

    pool_name: str = ""
    pool_namespace: str = ""
    """Empty: the environment's ``NAMESPACE``, else that of the service account or kubeconfig."""
    pool_group: str = POOL_GROUP
    selector: str = ""
    """``key=value`` pairs, separated by commas; makes an InferencePool unnecessary."""
    target_ports: tuple[int, ...] = ()
    kubeconfig: Path | None = None
    leader_election: bool = False
    timing: Timing = Timing()

    def flags(self) -> list[str]:
        """The same as command-line flags, for a child process."""
        texts = {
            "--pool-name": self.pool_name,
            "--pool-namespace": self.pool_namespace,
            "--pool-group": self.pool_group,
            "--endpoint-selector": self.selector,
            "--endpoint-target-ports": ",".join(map(str, self.target_ports)),
            "--kubeconfig": str(self.kubeconfig or ""),
        }
        flags = [part for flag, text in texts.items() if text for part in (flag, text)]
        return flags + (["--leader-election"] if self.leader_election else [])

    def choice(self, namespace: str) -> PoolChoice:
        """What to follow.

        Raises:
            ConfigError: if the flags do not say.
        """
        pool = self._standalone(namespace) if self.selector or self.target_ports else None
        if pool is None and not self.pool_name:
            raise ConfigError("name a pool", field="--pool-name", hint="or --endpoint-selector for one of your own")
        return PoolChoice(namespace=namespace, name=self.pool_name, group=self.pool_group, standalone=pool)

    def _standalone(self, namespace: str) -> Pool:
        try:
            return make_pool(self.pool_name or "standalone", namespace, _labels(self.selector), self.target_ports)
        except ConfigError as error:
            flags = {"selector": "--endpoint-selector", "targetPorts": "--endpoint-target-ports"}
            field = flags.get(error.field or "", error.field)
            raise ConfigError(error.message, field=field, hint=error.hint) from None


class Kubernetes:
    """A :class:`~pointsman.datalayer.sources.Source` that also knows policies and, if wanted, who leads."""

    def __init__(
        self,
        options: KubeOptions,
        use: Use,
        refuse: Refuse,
        use_policies: Callable[[ModelPolicies], None] | None = None,
    ) -> None:
        """Set up, without connecting. ``refuse`` is for sources that can read nothing; objects are refused by log."""
        self._options, self._use = options, use
        self._use_policies = use_policies or (lambda _: None)
        self._log = logger("kubernetes")
        self._clock = SystemClock()  # real time, however fast the engines are simulated
        self.metrics = KubeMetrics()
        self._client: ApiClient | None = None
        self._source: KubeSource | None = None
        self._lease: LeaseKeeper | None = None

    @property
    def ready(self) -> bool:
        """Whether requests may come: the endpoints are known, be they none, and no other picker leads."""
        source, lease = self._source, self._lease
        return source is not None and source.synced and (lease is None or lease.leading)

    def gather(self) -> None:
        """Bring the metrics up to date."""
        stats = self._source.stats() if self._source is not None else {}
        now = self._clock.now()
        self.metrics.latest = [_state(resource, one, now) for resource, one in stats.items()]
        self.metrics.leading = self._lease.leading if self._lease is not None else None

    async def start(self) -> None:
        """Connect and follow; what the server does not tell within seconds comes later.

        Raises:
            ConfigError: if no cluster is configured, the flags name no pool, or the package's extra is missing.
        """
        try:
            from pointsman.kube.client import ApiClient, find_cluster  # noqa: PLC0415 - 0.3 s, and an extra
        except ImportError as error:
            hint = "pip install 'pointsman[kubernetes]'"
            raise ConfigError(f"Kubernetes needs a package that is not installed: {error}", hint=hint) from None
        cluster = await asyncio.to_thread(find_cluster, self._options.kubeconfig)
        namespace = self._options.pool_namespace or os.environ.get("NAMESPACE") or cluster.namespace
        choice = self._options.choice(namespace)
        client = self._client = ApiClient(cluster)
        clock, rng = self._clock, Random()
        self._source = KubeSource(
            client,
            choice,
            self._use,
            self._use_policies,
            self._report,
            clock=clock,
            rng=rng,
            timing=self._options.timing,
        )
        await self._source.start()
        if self._options.leader_election:  # not before we know what we would lead with
            name = f"pointsman-{choice.name or 'standalone'}"
            who = f"{os.environ.get('POD_NAME') or socket.gethostname()}_{uuid.uuid4()}"
            self._lease = LeaseKeeper(client, namespace, name, who, self._elected, clock=clock, rng=rng)
            await self._lease.start()
        self._log.info(
            "following", server=client.server, namespace=namespace, pool=choice.name, synced=self._source.synced
        )

    async def resign(self) -> None:
        """Give the lead up, so that another one takes it while this picker still ends its requests."""
        if self._lease is not None:
            await self._lease.stop()

    async def stop(self) -> None:
        """Resign and stop following. Harmless when not started."""
        await self.resign()
        if self._source is not None:
            await self._source.stop()
        client, self._client = self._client, None
        if client is not None:
            await client.close()

    def _report(self, resource: Resource, text: str) -> None:
        # an extension's resource that is not there is the normal case in many clusters
        optional = resource.plural.startswith("inference") and text.startswith("404") and "pools" not in resource.plural
        (self._log.info if optional else self._log.warning)("kubernetes", resource=str(resource), problem=text)

    def _elected(self, text: str) -> None:
        self._log.info("leader election", state=text)


def _state(resource: str, stats: WatchStats, now: float) -> ResourceState:
    counts = {name: getattr(stats, name) for name in ("lists", "watches", "events", "gone", "failures", "refused")}
    age = now - stats.contact if stats.contact is not None else None
    return ResourceState(resource, stats.objects, stats.contact is not None and not stats.problem, age, counts)


def _labels(selector: str) -> dict[str, str]:
    """``key=value`` pairs.

    Raises:
        ConfigError: if there is anything else; set-based selectors are not possible, as in a pool.
    """
    labels: dict[str, str] = {}
    for part in filter(None, map(str.strip, selector.split(","))):
        key, separator, value = part.partition("=")
        value = value.removeprefix("=").strip()
        if not separator or not key.strip() or key.rstrip().endswith("!"):
            hint = "for example app=vllm,tier=decode"
            raise ConfigError(f"{part!r} is not key=value", field="--endpoint-selector", hint=hint)
        labels[key.strip()] = value
    return labels
