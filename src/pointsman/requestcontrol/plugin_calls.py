"""What plugins have to say around a decision; one that fails costs its own say and nothing else."""

from __future__ import annotations

from collections.abc import Mapping
from time import perf_counter

from pointsman.api.endpoint import Endpoint
from pointsman.api.request import InferenceRequest
from pointsman.api.result import SchedulingResult
from pointsman.framework.observer import Observer
from pointsman.framework.plan import Plan
from pointsman.framework.state import CycleState
from pointsman.framework.watchdog import report


def flow_of(plan: Plan, observer: Observer, request: InferenceRequest) -> str:
    """Whose flow a request without a fairness id belongs to, by the first plugin that knows; ``""`` if none does."""
    plan.watchdog.begin(perf_counter() + plan.config.pick_budget / 1000)
    for plugin in plan.flow_identities:
        name = getattr(plugin, "name", "?")
        try:
            if flow := plan.watchdog.call(name, plugin.flow_of, request):
                return flow
        except Exception as error:  # noqa: BLE001 - it stays in the flow of all who are not known
            report(observer, name, "flow", error)
    return ""


def request_headers(
    plan: Plan, observer: Observer, request: InferenceRequest, result: SchedulingResult, state: CycleState
) -> Mapping[str, str]:
    """To set on a request that was just decided, within the budget of its decision."""
    headers: dict[str, str] = {}
    for plugin in plan.request_headers:
        name = getattr(plugin, "name", "?")
        try:
            headers |= plan.watchdog.call(name, plugin.request_headers, request, result, state)
        except Exception as error:  # noqa: BLE001 - the decision stands
            report(observer, name, "request-headers", error)
    return headers


def answer_headers(
    plan: Plan, observer: Observer, request: InferenceRequest, chosen: Endpoint, served: str
) -> Mapping[str, str]:
    """To set on an answer whose head has come."""
    headers: dict[str, str] = {}
    plan.watchdog.begin(perf_counter() + plan.config.pick_budget / 1000)
    for plugin in plan.answer_headers:
        name = getattr(plugin, "name", "?")
        try:
            headers |= plan.watchdog.call(name, plugin.answer_headers, request, chosen, served)
        except Exception as error:  # noqa: BLE001 - the answer is worth more
            report(observer, name, "answer-headers", error)
    return headers
