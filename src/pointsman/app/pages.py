"""What the picker's admin pages show, gathered from its parts."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import TYPE_CHECKING, Any

import msgspec

from pointsman.api.endpoint import Endpoint
from pointsman.console.server import ConsoleSources
from pointsman.datalayer.datastore import Datastore
from pointsman.framework.gauges import is_fresh
from pointsman.latency.fit import FittingModel
from pointsman.observability.knowledge_metrics import Knowledge, plugin_stats
from pointsman.observability.redaction import without_passwords
from pointsman.requestcontrol.ledger import Ledger

if TYPE_CHECKING:
    from pointsman.app.picker import Picker


def console_sources(picker: Picker) -> ConsoleSources:
    """Where the pages of a picker get their data."""
    records = picker.metrics.records

    def decision(request_id: str) -> dict[str, Any] | None:
        record = records.get(request_id)
        return record.view() if record else None

    return ConsoleSources(
        metrics=partial(_gather_metrics, picker),
        ready=lambda: picker.server.serving and picker.ready(),
        pods=partial(_pods, picker),
        config=lambda: dict(without_passwords(picker.director.plan.effective())),
        decisions=lambda count: [record.view() for record in records.last(count)],
        decision=decision,
        latency=partial(_latency, picker),
    )


def _gather_metrics(picker: Picker) -> Callable[[], bytes]:
    metrics, kv = picker.metrics, picker.kv
    metrics.endpoints(len(picker.datastore.all()), len(picker.datastore.snapshot()))
    if picker.kubernetes is not None:
        picker.kubernetes.gather()
    tokenizing = picker.director.tokenizing
    metrics.knowledge.latest = Knowledge(
        index=kv.fleet.index.stats() if kv.listening else None,
        holders=kv.fleet.holders(),
        streams=kv.streams(),
        tokens=dict(tokenizing.counts) if tokenizing is not None else {},
        plugins=plugin_stats(picker.plans.plan.plugins, metrics),
        latency=_latency(picker),
    )
    return metrics.render


def _latency(picker: Picker) -> dict[str, Any]:
    cost = picker.handle.cost
    return cost.describe() if isinstance(cost, FittingModel) else {}


def _pods(picker: Picker) -> list[dict[str, Any]]:
    now = picker.clock.now()
    slowness = _latency(picker).get("slowness", {})
    return [
        _pod(endpoint, picker.datastore, picker.ledger, now)
        | {"kv_events": picker.kv.fleet.describe(endpoint), "reading": picker.scraper.describe(endpoint.id)}
        | {"kv_remembered": picker.kv.remembered.describe(endpoint.id), "slowness": slowness.get(endpoint.id)}
        for endpoint in picker.datastore.all()
    ]


def _pod(endpoint: Endpoint, datastore: Datastore, ledger: Ledger, now: float) -> dict[str, Any]:
    metrics = endpoint.metrics
    age = metrics.age(now)
    health = datastore.health(endpoint.id)
    return {
        "id": endpoint.id,
        "hostport": endpoint.hostport,
        "healthy": endpoint.healthy,
        "why": health.why if health else None,
        "draining": datastore.draining(endpoint.id),
        "labels": dict(endpoint.labels),
        "healthy_for_s": round(now - health.since, 3) if health and endpoint.healthy else None,
        "unhealthy_for_s": round(now - health.since, 3) if health and not endpoint.healthy else None,
        "metrics_age_ms": round(age * 1000) if age != float("inf") else None,
        "fresh": is_fresh(metrics, now),
        "metrics": {key: value for key, value in msgspec.to_builtins(metrics).items() if key != "updated"},
        "in_flight": msgspec.to_builtins(ledger.load(endpoint.id)),
    }
