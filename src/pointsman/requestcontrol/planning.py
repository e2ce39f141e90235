"""A configuration made into a plan: read, checked, built. The live picker and the lab do it here, in the same way."""

from __future__ import annotations

from pathlib import Path

import msgspec

from pointsman.errors import ConfigError
from pointsman.framework.build import Builder
from pointsman.framework.loader import LoadedConfig, load_config, read_source
from pointsman.framework.observer import Observer
from pointsman.framework.plan import Plan
from pointsman.framework.plugin import CostModel, Handle
from pointsman.framework.registry import installed_plugins
from pointsman.framework.watchdog import Watchdog
from pointsman.latency.fit import FittingModel
from pointsman.latency.model import LatencyModel
from pointsman.latency.profiles import find_latency_model
from pointsman.requestcontrol.shadow_plan import build_shadow, shadow_profile


def build_plan(
    name: str,
    handle: Handle,
    observer: Observer | None = None,
    previous: Plan | None = None,
    watchdog: Watchdog | None = None,
) -> Plan:
    """Load and build a preset or a file.

    Raises:
        ConfigError: if it cannot be used.
    """
    return build_loaded(load_config(*read_source(name)), handle, observer or Observer(), previous, watchdog)


def build_loaded(
    loaded: LoadedConfig, handle: Handle, observer: Observer, previous: Plan | None, watchdog: Watchdog | None
) -> Plan:
    """Build what was loaded; what ``previous`` has that did not change is kept.

    Raises:
        ConfigError: if it cannot be used.
    """
    try:
        _latency_model(loaded.config.latency_profile, loaded.source)
    except ConfigError as error:
        if error.source is not None:  # it speaks of the profile's own file
            raise
        raise loaded.error(error, (*loaded.root, "latencyProfile")) from error
    own = shadow_profile(loaded)
    skip = () if own is None else (own,)
    plan = Builder(loaded, installed_plugins(), handle, observer, previous, watchdog, skip).build()
    return plan if loaded.config.shadow is None else _with_shadow(plan, loaded, handle, observer, previous, watchdog)


def make_cost(plan: Plan) -> CostModel:
    """The cost model that a plan's configuration asks for.

    Raises:
        ConfigError: if its file has become unreadable since the plan was built.
    """
    seed = _latency_model(plan.config.latency_profile, plan.source)
    return FittingModel(seed, per_pod=plan.config.latency_per_pod) if plan.config.latency_fit else seed


def _latency_model(name: str, source: str) -> LatencyModel:
    return find_latency_model(name, None if source.startswith("preset:") else Path(source).parent)


def _with_shadow(
    plan: Plan,
    loaded: LoadedConfig,
    handle: Handle,
    observer: Observer,
    previous: Plan | None,
    watchdog: Watchdog | None,
) -> Plan:
    shadow = build_shadow(loaded, plan, handle, observer, previous, watchdog)
    other = shadow.plan
    own = [] if other.source == plan.source or other.source.startswith("preset:") else [other.source]
    notes = [f"shadow: {note}" for note in other.notes if note not in plan.notes]
    if other.config.latency_profile != plan.config.latency_profile:
        notes.append("shadow: its latencyProfile has no effect, costs are estimated as for the plan in force")
    files = tuple(dict.fromkeys([*plan.files, *own, *other.files]))
    return msgspec.structs.replace(plan, shadow=shadow, files=files, notes=(*plan.notes, *notes))
