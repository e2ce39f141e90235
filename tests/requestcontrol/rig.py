"""A picker's inside without its ports: real plan, ledger, metrics and director over endpoints that a test names."""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from pathlib import Path
from random import Random
from typing import Any, cast

import yaml
from tests.builders import make_endpoints

from pointsman.api.endpoint import Endpoint
from pointsman.api.request import RequestHead
from pointsman.clock import ManualClock
from pointsman.framework.plugin import Handle
from pointsman.framework.watchdog import Watchdog
from pointsman.latency.model import DEFAULT_PROFILE, LATENCY_PROFILES
from pointsman.observability.metrics import Metrics
from pointsman.requestcontrol.director import Director
from pointsman.requestcontrol.exchange import Exchange, is_pending
from pointsman.requestcontrol.ledger import Ledger
from pointsman.requestcontrol.planning import build_plan

CHAT = "/v1/chat/completions"


class Rig:
    """Endpoints may be replaced at any time; ``ends`` is what the director reported of ended requests."""

    def __init__(
        self,
        config: str | Path = "default",
        endpoints: Sequence[Endpoint] | None = None,
        watchdog: Watchdog | None = None,
    ) -> None:
        self.endpoints = tuple(make_endpoints(8) if endpoints is None else endpoints)
        self.clock = ManualClock(100.0)
        self.ledger = Ledger(self.clock)
        self.metrics = Metrics()
        self.ends: list[tuple[str, int | None]] = []
        self.cost = LATENCY_PROFILES[DEFAULT_PROFILE]
        self.handle = Handle(clock=self.clock, rng=Random(1), inflight=self.ledger, cost=self.cost)
        self.plan = build_plan(str(config), self.handle, self.metrics, watchdog=watchdog)
        self.director = Director(
            self.plan, self, self.ledger, self.cost, self.clock, Random(2), self.metrics, self._ended
        )

    def snapshot(self) -> tuple[Endpoint, ...]:
        return self.endpoints

    def all(self) -> tuple[Endpoint, ...]:
        return self.endpoints

    def _ended(self, endpoint: Endpoint, status: int | None) -> None:
        self.ends.append((endpoint.id, status))

    def ask(
        self,
        prompt: str = "hello",
        *,
        subset: tuple[str, ...] | None = None,
        received: float = math.inf,
        headers: dict[str, str] | None = None,
        **fields: Any,
    ) -> Exchange:
        """Decide a chat request; further keywords are fields of its body."""
        body = {"model": "m", "messages": [{"role": "user", "content": prompt}]} | fields
        head = RequestHead({":method": "POST", ":path": CHAT, **(headers or {})}, subset)
        return self.decide(head, json.dumps(body).encode(), received=received)

    def decide(self, head: RequestHead, body: bytes, *, received: float) -> Exchange:
        """The director's answer, which must be there at once."""
        found = self.director.decide(head, body, received=received)
        assert not is_pending(found)
        return cast("Exchange", found)

    def count(self, metric: str, **labels: str) -> float:
        """A sample of the metrics page, 0 when it is not there."""
        return self.metrics.registry.get_sample_value(f"pointsman_{metric}", labels) or 0.0


def chosen(exchange: Exchange) -> str:
    """Where it went: the endpoint's id."""
    return exchange.decision.endpoints[0].id


def write_config(
    folder: Path,
    profile: Sequence[str | tuple[str, float]],
    *,
    also: Sequence[str] = (),
    code: str | None = None,
    parameters: dict[str, dict[str, Any]] | None = None,
    **fields: Any,
) -> Path:
    """A configuration in the long form: plugins of one profile (with weights), others, and a plugin file."""
    places = [(entry, None) if isinstance(entry, str) else entry for entry in profile]
    types = [*also, *(name for name, _ in places)]
    plugins = [{"type": name, "parameters": (parameters or {}).get(name, {})} for name in types]
    references = [{"pluginRef": name} | ({"weight": weight} if weight else {}) for name, weight in places]
    data: dict[str, Any] = {
        "apiVersion": "llm-d.ai/v1alpha1",
        "kind": "EndpointPickerConfig",
        "plugins": plugins,
        "schedulingProfiles": [{"name": "main", "plugins": references}],
    }
    if code is not None:
        (folder / "own_plugins.py").write_text(code, "utf-8")
        data["pluginPaths"] = ["own_plugins.py"]
    path = folder / "config.yaml"
    path.write_text(yaml.safe_dump(data | fields), "utf-8")
    return path
