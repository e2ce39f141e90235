"""Shadow: a second plan that decides every request too, and of which nothing but a comparison comes.

It runs when the answer is on its way, on the facts that the decision was made on: the same endpoints, the same matches
of producers that both plans have in the same form, and a ledger without the request itself. When another decision was
made or a request has ended in between, those facts are gone; such decisions are skipped and counted. Its plugins learn
from what the plan in force did, never from what they would have done.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from random import Random
from time import perf_counter
from typing import Any, TypeVar, TypeVarTuple

import msgspec

from pointsman.api.endpoint import NO_LOAD, Endpoint, EndpointId, Growth, InflightLoad
from pointsman.api.record import ShadowRecord
from pointsman.api.request import InferenceRequest
from pointsman.api.result import ProfileRunResult, RequestOutcome, SchedulingResult
from pointsman.errors import RequestError
from pointsman.framework.keys import REMOTE_MATCHES
from pointsman.framework.kv import KvLookup, KvMatch
from pointsman.framework.observer import Observer
from pointsman.framework.plan import Plan
from pointsman.framework.plugin import Handle, InflightView, Plugin
from pointsman.framework.shadowing import Decided
from pointsman.framework.state import CycleState
from pointsman.framework.watchdog import Watchdog

T = TypeVar("T")
Args = TypeVarTuple("Args")
BUDGET_MS = 20.0
"""For one look; the pick budget is for those who wait."""


class ShadowLoads:
    """The ledger as it was before the decision looked at."""

    def __init__(self, ledger: InflightView) -> None:
        self._ledger = ledger
        self._chosen: EndpointId | None = None
        self._before = NO_LOAD
        self._tokens = 0

    def look_at(self, decision: Decided) -> None:
        self._chosen = decision.result.chosen.id
        self._before, self._tokens = decision.before, decision.uncached_tokens

    def load(self, endpoint: EndpointId) -> InflightLoad:
        return self._before if endpoint == self._chosen else self._ledger.load(endpoint)

    def since(self, endpoint: EndpointId, moment: float) -> Growth:
        growth = self._ledger.since(endpoint, moment)
        if endpoint != self._chosen or not growth.pending:
            return growth
        return msgspec.structs.replace(growth, pending=growth.pending - 1, tokens=growth.tokens - self._tokens)


class ReadOnlyKv:
    """The index, of which nothing is expected on the shadow's behalf."""

    def __init__(self, kv: KvLookup) -> None:
        self.block_tokens = kv.block_tokens
        self.match = kv.match
        self.confidence = kv.confidence

    def speculate(self, endpoint: Endpoint, match: KvMatch, ttl: float) -> None:
        """Not here: the plan in force has told it already, if it wanted to."""


class ShadowWatchdog(Watchdog):
    """The picker's, under names of its own: a shadow's plugin that is cut off costs no other plugin its place."""

    def __init__(self, inner: Watchdog) -> None:
        super().__init__()
        self._inner = inner

    def begin(self, deadline: float) -> None:
        self._inner.begin(deadline)

    def call(self, plugin: str, function: Callable[[*Args], T], *args: *Args) -> T:
        return self._inner.call(f"shadow/{plugin}", function, *args)

    def core(self, function: Callable[[*Args], T], *args: *Args) -> T:
        return self._inner.core(function, *args)


class ShadowObserver(Observer):
    """Passes on what fails; nothing else of a shadow is news."""

    def __init__(self, outer: Observer) -> None:
        self.outer = outer
        self.failures = 0

    def plugin_failed(self, plugin: str, point: str, error: Exception) -> None:
        self.failures += 1
        self.outer.plugin_failed(f"shadow/{plugin}", point, error)


class ShadowRig(msgspec.Struct, frozen=True):
    """What a shadow's plugins see of the world; kept over reloads, so that they may be, too."""

    handle: Handle
    loads: ShadowLoads
    observer: ShadowObserver
    watchdog: ShadowWatchdog


def make_rig(handle: Handle, observer: Observer, watchdog: Watchdog | None) -> ShadowRig:
    """From what the plugins of the plan in force see."""
    loads = ShadowLoads(handle.inflight)
    kv = ReadOnlyKv(handle.kv) if handle.kv is not None else None
    # Randomness of its own: the decisions are the same with a shadow as without.
    own = msgspec.structs.replace(handle, rng=Random("shadow"), inflight=loads, kv=kv)
    return ShadowRig(own, loads, ShadowObserver(observer), ShadowWatchdog(watchdog or Watchdog()))


class Shadow:
    """Implements :class:`pointsman.framework.shadowing.Shadowing`.

    Args:
        plan: built with the rig.
        live: the plan in force, of which producers are shared.
        rig: what the plan's plugins see.
        share: of the decisions to look at, 0 to 1.
    """

    def __init__(self, plan: Plan, live: Plan, rig: ShadowRig, share: float) -> None:
        self.plan = plan
        self.rig = rig
        self._share = share
        self._rng = Random("shadow share")
        self._events = 0
        """Decisions and ends so far: whether any came since is whether the ledger is what it was."""
        shared = {p.name for p in plan.producers if _alike(p, live.plugins.get(p.name))}
        self._own = [p for p in plan.producers if p.name not in shared]
        self._taken = [k.name for p in plan.producers if p.name in shared for k in p.produces()] + [REMOTE_MATCHES.name]
        self._told = _Told(plan, shared)

    def decided(self, decision: Decided) -> None:
        self._events += 1
        at = self._events
        try:
            loop = asyncio.get_running_loop()
        except RuntimeError:
            self._look(decision, at)  # a simulation: no time passes
            return
        # Not in this round of the loop, nor in the next one, in which decisions that had to wait are answered.
        loop.call_soon(loop.call_soon, self._look, decision, at)

    def first_token(self, request: InferenceRequest) -> None:
        self._tell("first-token", [p.first_token for p in self._told.first_token], request)

    def ended(self, outcome: RequestOutcome) -> None:
        self._events += 1
        self._tell("ended", [p.ended for p in self._told.outcome], outcome)

    def endpoint_removed(self, endpoint: Endpoint) -> None:
        self._tell("endpoint-removed", [p.endpoint_removed for p in self._told.endpoint], endpoint)

    def _look(self, decision: Decided, at: int) -> None:
        observer, record = self.rig.observer, decision.record
        failures = observer.failures
        start = perf_counter()
        self.rig.watchdog.begin(start + BUDGET_MS / 1000)
        self.rig.loads.look_at(decision)
        try:
            state = self._produce(decision)
            if at != self._events or (self._share < 1 and self._rng.random() >= self._share):
                result = "skipped"
            else:
                record.shadow = self._judge(decision, state, start + BUDGET_MS / 1000)
                result = "differs" if record.shadow.reason else "same"
        except Exception as error:  # noqa: BLE001 - whatever a shadow does, nobody is to notice
            observer.plugin_failed("scheduler", "schedule", error)
            state, result = None, "failed"
        if state is not None:
            self._tell("picked", [p.picked for p in self._told.pick], decision.request, decision.result, state)
        observer.outer.shadowed("failed" if observer.failures > failures else result, record)

    def _produce(self, decision: Decided) -> CycleState:
        state = decision.state.only(self._taken)
        for producer in self._own:
            self._call(producer.name, "produce", producer.produce, decision.request, decision.candidates, state)
        state.seal()
        return state

    def _judge(self, decision: Decided, state: CycleState, deadline: float) -> ShadowRecord:
        try:
            result = self.plan.scheduler.schedule(decision.request, decision.candidates, state, deadline)
        except RequestError as error:
            return ShadowRecord("", "", 0.0, "", f"refuses: {error.reason}")
        return compared(decision.result.chosen, result)

    def _tell(self, point: str, methods: Sequence[Callable[[*Args], None]], *news: *Args) -> None:
        if methods:
            self.rig.watchdog.begin(perf_counter() + BUDGET_MS / 1000)
        for method in methods:
            self._call(getattr(getattr(method, "__self__", None), "name", "?"), point, method, *news)

    def _call(self, name: str, point: str, method: Callable[[*Args], None], *args: *Args) -> None:
        try:
            self.rig.watchdog.call(name, method, *args)
        except Exception as error:  # noqa: BLE001 - as above
            self.rig.observer.plugin_failed(name, point, error)


class _Told:
    """Who of a shadow's plugins is told what; those shared with the plan in force are told there."""

    def __init__(self, plan: Plan, shared: set[str]) -> None:
        def own(members: Sequence[T]) -> list[T]:
            return [member for member in members if getattr(member, "name", "") not in shared]

        self.pick = own(plan.pick_observers)
        self.first_token = own(plan.first_token_observers)
        self.outcome = own(plan.outcome_observers)
        self.endpoint = own(plan.endpoint_observers)


def compared(made: Endpoint, result: SchedulingResult) -> ShadowRecord:
    """A shadow's result beside the choice that was made."""
    run, chosen = result.profiles[result.primary], result.chosen
    if chosen.id == made.id:
        return ShadowRecord(chosen.id, chosen.hostport, 0.0, run.unit)
    gain, reason = _why(run, chosen, made)
    return ShadowRecord(chosen.id, chosen.hostport, gain, run.unit, reason)


def _why(run: ProfileRunResult, chosen: Endpoint, made: Endpoint) -> tuple[float, str]:
    if run.fallback:
        return 0.0, run.fallback
    place = {scored.endpoint.id: i for i, scored in enumerate(run.candidates)}
    if made.id not in place or chosen.id not in place:
        return 0.0, "filtered"
    ours, theirs = place[made.id], place[chosen.id]
    gain = run.candidates[theirs].score - run.candidates[ours].score
    if gain <= 0:
        return gain, "tie" if gain == 0 else "picker"
    loudest = max(run.terms, key=lambda term: term.values[theirs] - term.values[ours])
    return gain, loudest.plugin


def _alike(plugin: Plugin[Any], other: Plugin[Any] | None) -> bool:
    return other is not None and type(plugin) is type(other) and plugin.params == other.params
