"""Scheduler: lets the profile handler run profiles, and falls back to round-robin when they leave nothing.

429 means that capacity exists but is contended, 503 that there is none (the doctrine of the Endpoint Picker protocol).
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any, Literal

import msgspec

from pointsman.api.endpoint import Endpoint
from pointsman.api.request import InferenceRequest
from pointsman.api.result import ProfileRunResult, SchedulingResult
from pointsman.errors import NoEndpointsError, PluginError, RequestError, SaturatedError
from pointsman.framework.keys import PEER_ENDPOINT_KEY
from pointsman.framework.observer import Observer
from pointsman.framework.plugin import ProfileHandler
from pointsman.framework.profile import MAX_TARGETS, SchedulingProfile
from pointsman.framework.state import CycleState
from pointsman.framework.watchdog import Watchdog, report

Fallback = Literal["round-robin", "refuse"]


class Scheduler:
    """Filter → Score → Select over one or several profiles."""

    def __init__(
        self,
        profiles: Mapping[str, SchedulingProfile],
        handler: ProfileHandler[Any],
        observer: Observer,
        fallback: Fallback = "round-robin",
        watchdog: Watchdog | None = None,
    ) -> None:
        self.profiles = dict(profiles)
        self.handler = handler
        self.fallback = fallback
        self._observer = observer
        self._watchdog = watchdog or Watchdog()
        self._cursor = 0
        main = handler.main_profile()
        self._main = main if main in self.profiles else None

    def schedule(
        self, request: InferenceRequest, endpoints: Sequence[Endpoint], state: CycleState, deadline: float = math.inf
    ) -> SchedulingResult:
        """Choose endpoints for a request among ``endpoints`` (not empty).

        Raises:
            RequestError: the profile handler refuses it.
            SaturatedError: the filters left nothing and the fallback is ``refuse``.
            NoEndpointsError: no endpoint serves what the request asks for.
        """
        results: dict[str, ProfileRunResult] = {}
        known = state

        def run(name: str) -> ProfileRunResult:
            nonlocal known
            if results and (before := next(reversed(results.values()))).targets:
                known = state.plus(PEER_ENDPOINT_KEY, before.targets[0])
            results[name] = watchdog.core(self.profiles[name].run, request, endpoints, known, deadline)
            return results[name]

        watchdog, handler = self._watchdog, self.handler
        try:
            result = watchdog.call(handler.name, handler.handle_profiles, request, tuple(self.profiles), run, state)
            primary = _primary(result)
        except RequestError:
            raise
        except Exception as error:  # noqa: BLE001 - whatever a plugin does, the request goes on
            report(self._observer, handler.name, "handle-profiles", error)
            name = self._main or next(iter(results), None) or next(iter(self.profiles))
            primary = results.get(name) or run(name)
            result = SchedulingResult(name, results)
        if primary.fallback and primary.targets:
            self._observer.fell_back(primary.fallback)
        return result if primary.targets else self._drained(request, endpoints, result, primary)

    def round_robin(self, endpoints: Sequence[Endpoint], why: str) -> SchedulingResult:
        """The decision of last resort: the next endpoint in turn, counted under ``why``."""
        self._observer.fell_back(why)
        targets = self._in_turn(endpoints)
        return SchedulingResult("fallback", {"fallback": ProfileRunResult("fallback", targets, fallback=why)})

    def _drained(
        self,
        request: InferenceRequest,
        endpoints: Sequence[Endpoint],
        result: SchedulingResult,
        primary: ProfileRunResult,
    ) -> SchedulingResult:
        usable = self._able(primary, endpoints)
        if not usable:
            raise NoEndpointsError(f"no endpoint serves model {request.target_model!r}")
        self._observer.fell_back("filters-drained")
        if self.fallback == "refuse":
            raise SaturatedError("no endpoints available for the given request")
        drained = msgspec.structs.replace(primary, targets=self._in_turn(usable), fallback="filters-drained")
        return SchedulingResult(result.primary, {**result.profiles, result.primary: drained})

    def _able(self, primary: ProfileRunResult, endpoints: Sequence[Endpoint]) -> list[Endpoint]:
        """Endpoints that could serve the request were they not busy: what mandatory filters dropped stays out."""
        filters = [plugin for profile in self.profiles.values() for plugin in profile.filters]
        mandatory = {plugin.name for plugin in filters if plugin.mandatory}
        out = {endpoint for drop in primary.drops if drop.plugin in mandatory for endpoint in drop.endpoints}
        return [endpoint for endpoint in endpoints if endpoint.id not in out]

    def _in_turn(self, endpoints: Sequence[Endpoint]) -> tuple[Endpoint, ...]:
        start = self._cursor % len(endpoints)
        self._cursor += 1
        return tuple(endpoints[(start + i) % len(endpoints)] for i in range(min(len(endpoints), MAX_TARGETS)))


def _primary(result: SchedulingResult) -> ProfileRunResult:
    primary = result.profiles.get(result.primary)
    if not isinstance(primary, ProfileRunResult):
        raise PluginError(f"names {result.primary!r} as primary, which did not run")
    for stage, profile in result.stages.items():
        run = result.profiles.get(profile)
        if run is None or not run.targets:
            raise PluginError(f"names {profile!r} for the stage {stage!r}, which chose no endpoint")
    return primary
