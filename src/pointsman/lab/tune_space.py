"""What of a policy can be tuned: weights of its scorers, and numbers among the parameters of its plugins."""

from __future__ import annotations

import math
import typing
from collections.abc import Mapping
from copy import deepcopy
from pathlib import Path
from random import Random
from types import UnionType
from typing import Annotated, Any

import msgspec

from pointsman.clock import ManualClock
from pointsman.errors import ConfigError
from pointsman.framework.loader import load_config, read_file
from pointsman.framework.observer import Observer
from pointsman.framework.plan import Plan
from pointsman.framework.plugin import Handle, Plugin
from pointsman.framework.yaml_lines import convert, load_yaml
from pointsman.latency.model import DEFAULT_PROFILE, LATENCY_PROFILES
from pointsman.requestcontrol.ledger import Ledger
from pointsman.requestcontrol.planning import build_loaded, build_plan

WEIGHT = "weight"
AROUND = 4.0
"""Numbers without bounds are looked for within this factor of what they are."""
MAX_DRAWS = 50
UNTOUCHED = frozenset({"maxNumOfEndpoints", "cacheIndexerTimeoutMs"})
"""Numbers that say nothing about where a request goes first."""
Setting = Mapping[str, float | int | str | bool]
"""Values by the name of the axis."""


class Axis(msgspec.Struct, frozen=True, kw_only=True):
    """One number, or one choice.

    Attributes:
        name: ``PLUGIN.weight`` or ``PLUGIN.parameter``, as the configuration names them.
        now: as it is.
        low: least value.
        high: largest value.
        whole: whether it is a whole number.
        choices: instead of bounds.
    """

    name: str
    now: float | int | str | bool
    low: float = 0.0
    high: float = 0.0
    whole: bool = False
    choices: tuple[float | int | str | bool, ...] = ()

    def draw(self, rng: Random) -> float | int | str | bool:
        """A value from all over; on a logarithmic scale when the bounds are far apart."""
        if self.choices:
            return rng.choice(self.choices)
        if self.low > 0 and self.high / self.low >= AROUND:
            value = math.exp(rng.uniform(math.log(self.low), math.log(self.high)))
        else:
            value = rng.uniform(self.low, self.high)
        return round(value) if self.whole else float(f"{value:.4g}")


class Space(msgspec.Struct, frozen=True):
    """A policy and its axes. ``config`` is the effective configuration as plain data."""

    config: dict[str, Any]
    axes: tuple[Axis, ...]

    def setting_now(self) -> dict[str, Any]:
        """The policy as it is."""
        return {axis.name: axis.now for axis in self.axes}

    def draw(self, rng: Random) -> dict[str, Any]:
        """Another policy: all axes drawn anew, or every second time only some of them."""
        some = rng.random() < 0.5
        kept = {axis.name for axis in self.axes if some and rng.random() < 0.5}
        return {axis.name: axis.now if axis.name in kept else axis.draw(rng) for axis in self.axes}

    def applied(self, setting: Setting) -> dict[str, Any]:
        """The configuration with other values, as plain data that loads."""
        config = deepcopy(self.config)
        for name, value in setting.items():
            plugin, _, field = name.rpartition(".")
            if field == WEIGHT:
                for profile in config["schedulingProfiles"]:
                    for member in profile["plugins"]:
                        if member["pluginRef"] == plugin and "weight" in member:
                            member["weight"] = value
            else:
                entry = next(entry for entry in config["plugins"] if (entry.get("name") or entry["type"]) == plugin)
                entry["parameters"] = {**(entry.get("parameters") or {}), field: value}
        return config


class _Bounds(msgspec.Struct, forbid_unknown_fields=True):
    low: float | None = None
    high: float | None = None
    choices: list[float | int | str | bool] = []


class _SpaceFile(msgspec.Struct, forbid_unknown_fields=True):
    space: dict[str, list[float] | _Bounds]


def load_policy(source: str) -> Plan:
    """Build a policy to look at it.

    Raises:
        ConfigError: if it cannot be used.
    """
    return build_plan(source, _handle())


def draw_allowed(space: Space, rng: Random) -> dict[str, Any]:
    """A setting that the plugins allow: numbers may be within their bounds and not go together.

    Raises:
        ConfigError: if none of many is allowed.
    """
    for _ in range(MAX_DRAWS):
        setting = space.draw(rng)
        text = msgspec.json.encode(space.applied(setting)).decode()
        try:
            build_loaded(load_config(text, "variant"), _handle(), Observer(), None, None)
        except ConfigError as error:
            why = error
        else:
            return setting
    raise ConfigError(f"of {MAX_DRAWS} settings tried none is allowed: {why}", hint="narrow the space") from why


def _handle() -> Handle:
    clock = ManualClock()
    return Handle(clock=clock, rng=Random(0), inflight=Ledger(clock), cost=LATENCY_PROFILES[DEFAULT_PROFILE])


def find_space(source: str, file: Path | None = None) -> Space:
    """The search space of a policy.

    Args:
        source: preset or file.
        file: YAML with ``space:``, a mapping of ``PLUGIN.weight`` or ``PLUGIN.parameter`` to ``[low, high]`` or
            ``{choices: [...]}``; without one, all weights and numbers of the profiles' plugins.

    Raises:
        ConfigError: if the policy or the file cannot be used, or there is nothing to tune.
    """
    plan = load_policy(source)
    config = plan.effective()
    if plan.files or config.get("pluginPaths"):
        base = Path(plan.source).parent
        config["pluginPaths"] = [str((base / name).resolve()) for name in plan.config.plugin_paths]
    beside = Path(plan.source).parent / plan.config.latency_profile
    if beside.is_file() and not plan.source.startswith("preset:"):
        config["latencyProfile"] = str(beside.resolve())
    config.pop("shadow", None)
    found = {axis.name: axis for axis in _axes(plan)}
    axes = tuple(found.values()) if file is None else _written(file, plan, found)
    if not axes:
        raise ConfigError("this policy has no weight or number to tune", source=plan.source)
    return Space(config, axes)


def _axes(plan: Plan) -> list[Axis]:
    axes: list[Axis] = []
    seen: set[str] = set()
    for profile in plan.scheduler.profiles.values():
        if len(profile.scorers) > 1:
            for scorer in profile.scorers:
                low, high = _around(scorer.weight, 0.0, math.inf)
                axes.append(Axis(name=f"{scorer.plugin.name}.{WEIGHT}", now=scorer.weight, low=low, high=high))
        members: list[Plugin[Any]] = [*profile.filters, *(s.plugin for s in profile.scorers), profile.picker]
        for plugin in members:
            if plugin.name not in seen:
                seen.add(plugin.name)
                axes += _numbers(plugin)
    return axes


def _numbers(plugin: Plugin[Any]) -> list[Axis]:
    hints = typing.get_type_hints(type(plugin.params), include_extras=True)
    axes = []
    for field in msgspec.structs.fields(plugin.params):
        kind, low, high = _number(hints[field.name])
        now = getattr(plugin.params, field.name)
        if field.encode_name in UNTOUCHED or kind is None or isinstance(now, bool) or not isinstance(now, int | float):
            continue
        low, high = _around(now, low, high)
        if low < high:
            name = f"{plugin.name}.{field.encode_name}"
            axes.append(Axis(name=name, now=now, low=low, high=high, whole=kind is int))
    return axes


def _number(hint: Any) -> tuple[type | None, float, float]:
    """Whether a type is ``int`` or ``float``, and the bounds its ``Meta`` gives."""
    low, high = -math.inf, math.inf
    if typing.get_origin(hint) in {typing.Union, UnionType}:
        parts = [part for part in typing.get_args(hint) if part is not type(None)]
        return _number(parts[0]) if len(parts) == 1 else (None, low, high)
    while typing.get_origin(hint) is Annotated:
        hint, *metas = typing.get_args(hint)
        for meta in metas:
            if isinstance(meta, msgspec.Meta):
                low = max(low, *(bound for bound in (meta.ge, meta.gt, low) if bound is not None))
                high = min(high, *(bound for bound in (meta.le, meta.lt, high) if bound is not None))
    return (hint if hint in {int, float} else None), low, high


def _around(now: float, low: float, high: float) -> tuple[float, float]:
    """Bounds to search within: those that are given, else a factor around what it is."""
    if math.isfinite(low) and math.isfinite(high) and high <= 1:
        return low, high
    if now <= 0:
        return max(0.0, low), min(1.0, high)
    return max(low, now / AROUND), min(high, now * AROUND)


def _written(file: Path, plan: Plan, found: Mapping[str, Axis]) -> tuple[Axis, ...]:
    """Axes that a file names."""
    document = load_yaml(read_file(file), str(file))
    axes = []
    for name, bounds in convert(document, _SpaceFile).space.items():
        path = ("space", name)
        now = _value_of(plan, name, found)
        if now is None:
            hint = f"such as {', '.join(list(found)[:4])}" if found else None
            raise document.error(f"the policy has no {name!r}", path, hint)
        if isinstance(bounds, list):
            if len(bounds) != 2:
                raise document.error("expected [low, high]", path)
            bounds = _Bounds(low=bounds[0], high=bounds[1])  # noqa: PLW2901
        if bounds.choices:
            axes.append(Axis(name=name, now=now, choices=tuple(bounds.choices)))
            continue
        if bounds.low is None or bounds.high is None or not bounds.low < bounds.high:
            raise document.error("expected low below high, or choices", path)
        whole = isinstance(now, int) and not name.endswith(f".{WEIGHT}")
        axes.append(Axis(name=name, now=now, low=bounds.low, high=bounds.high, whole=whole))
    return tuple(axes)


def _value_of(plan: Plan, name: str, found: Mapping[str, Axis]) -> Any:
    if name in found:
        return found[name].now
    plugin, _, field = name.rpartition(".")
    if plugin not in plan.plugins:
        return None
    return msgspec.to_builtins(plan.plugins[plugin].params).get(field)
