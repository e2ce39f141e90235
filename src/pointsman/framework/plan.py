"""Plan: everything one configuration builds, swapped as a whole on reload."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import msgspec

from pointsman.api.config import EndpointPickerConfig
from pointsman.framework.keys import PrefixMatch
from pointsman.framework.plugin import (
    Admitter,
    AnswerHeaders,
    DataProducer,
    EndpointObserver,
    FirstTokenObserver,
    FlowIdentity,
    OutcomeObserver,
    PickObserver,
    Plugin,
    PluginSpec,
    RequestHeaders,
)
from pointsman.framework.profile import SchedulingProfile
from pointsman.framework.scheduler import Scheduler
from pointsman.framework.shadowing import Shadowing
from pointsman.framework.state import StateKey
from pointsman.framework.watchdog import Watchdog

_MIXINS: dict[str, type] = {
    "pick_observers": PickObserver,
    "first_token_observers": FirstTokenObserver,
    "outcome_observers": OutcomeObserver,
    "endpoint_observers": EndpointObserver,
    "answer_headers": AnswerHeaders,
    "request_headers": RequestHeaders,
    "flow_identities": FlowIdentity,
}


class Plan(msgspec.Struct, frozen=True, kw_only=True):
    """The built form of a configuration.

    Attributes:
        source: where it came from: a path or ``preset:NAME``.
        config: the configuration in its long form.
        plugins: every plugin instance by name, in the order of building.
        producers: DataProducers, each after those whose keys it consumes.
        match_keys: keys of prefix matches, best first; the ledger counts uncached tokens by the first one written.
        files: plugin files that belong to it, for reloading.
        notes: things a user should know but that are no errors.
        watchdog: watches the calls into the plugins.
        shadow: looks at this plan's decisions; None when the configuration names none.
        pick_observers: those of the plugins that are; like the next six filled in from ``plugins``.
        first_token_observers: ditto.
        outcome_observers: ditto.
        endpoint_observers: ditto.
        answer_headers: ditto.
        request_headers: ditto.
        flow_identities: ditto.
    """

    source: str
    config: EndpointPickerConfig
    plugins: Mapping[str, Plugin[Any]]
    producers: Sequence[DataProducer[Any]]
    admitters: Sequence[Admitter[Any]]
    scheduler: Scheduler
    match_keys: Sequence[StateKey[PrefixMatch]] = ()
    files: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()
    watchdog: Watchdog = msgspec.field(default_factory=Watchdog)
    shadow: Shadowing | None = None
    pick_observers: tuple[PickObserver, ...] = ()
    first_token_observers: tuple[FirstTokenObserver, ...] = ()
    outcome_observers: tuple[OutcomeObserver, ...] = ()
    endpoint_observers: tuple[EndpointObserver, ...] = ()
    answer_headers: tuple[AnswerHeaders, ...] = ()
    request_headers: tuple[RequestHeaders, ...] = ()
    flow_identities: tuple[FlowIdentity, ...] = ()

    def __post_init__(self) -> None:
        for field, kind in _MIXINS.items():
            members = tuple(plugin for plugin in self.plugins.values() if isinstance(plugin, kind))
            msgspec.structs.force_setattr(self, field, members)

    def specs(self) -> list[PluginSpec]:
        """Every plugin with its effective parameters, defaults filled in, camelCase."""
        return [PluginSpec(plugin.type, name, _plain(plugin.params)) for name, plugin in self.plugins.items()]

    def effective(self) -> dict[str, Any]:
        """The effective configuration as plain data that loads again."""
        data: dict[str, Any] = msgspec.to_builtins(self.config)
        data["plugins"] = [msgspec.to_builtins(spec) for spec in self.specs()]
        profiles = dict(self.scheduler.profiles)
        if self.shadow is not None and self.shadow.plan.source == self.source:
            profiles = self.shadow.plan.scheduler.profiles | profiles
        data["schedulingProfiles"] = [
            {"name": name, "plugins": _references(profile)} for name, profile in profiles.items()
        ]
        return {key: value for key, value in data.items() if value not in (None, [], {})}


def _references(profile: SchedulingProfile) -> list[dict[str, Any]]:
    """The profile's plugin list; a plugin that both filters and scores appears once."""
    weights = {scorer.plugin.name: scorer.weight for scorer in profile.scorers}
    names = [plugin.name for plugin in profile.filters]
    names += [name for name in weights if name not in names]
    rows: list[dict[str, Any]] = [
        {"pluginRef": name, "weight": weights[name]} if name in weights else {"pluginRef": name} for name in names
    ]
    return [*rows, {"pluginRef": profile.picker.name}]


def _plain(params: msgspec.Struct) -> dict[str, Any]:
    """Parameters as a file would hold them: through JSON, so that tuples become lists, as they will be when read."""
    data: dict[str, Any] = msgspec.json.decode(msgspec.json.encode(params))
    return data
