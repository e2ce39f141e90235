"""Finds and builds what a configuration names as its ``shadow``."""

from __future__ import annotations

from pathlib import Path

from pointsman.errors import ConfigError
from pointsman.framework.build import Builder
from pointsman.framework.loader import LoadedConfig, load_config, preset_names, read_source
from pointsman.framework.observer import Observer
from pointsman.framework.plan import Plan
from pointsman.framework.plugin import Handle
from pointsman.framework.registry import installed_plugins
from pointsman.framework.watchdog import Watchdog
from pointsman.requestcontrol.shadow import Shadow, make_rig

PRESET = "preset:"


def shadow_profile(loaded: LoadedConfig) -> str | None:
    """The profile of the configuration's own that is its shadow, and so none that decides; None for none."""
    name = loaded.config.shadow
    own = {profile.name for profile in loaded.config.scheduling_profiles} if not loaded.short else set()
    if name is None or name not in own:
        return None
    if len(own) == 1:
        hint = f"write {PRESET}{name} for the preset" if name in preset_names() else "add a profile that decides"
        raise _wrong(loaded, f"{name!r} is the only profile, so that nothing would be left to decide", hint)
    return name


def build_shadow(
    loaded: LoadedConfig,
    live: Plan,
    handle: Handle,
    observer: Observer,
    previous: Plan | None,
    watchdog: Watchdog | None,
) -> Shadow:
    """Build the shadow of a plan.

    Args:
        loaded: a configuration that names one.
        live: the plan built of it.
        handle: what the live plugins see.
        observer: told of the shadow's looks.
        previous: whose shadow's plugins are kept where they did not change.
        watchdog: the picker's.

    Raises:
        ConfigError: if there is none of that name, or it cannot be used.
    """
    own = shadow_profile(loaded)
    before = previous.shadow if previous is not None and isinstance(previous.shadow, Shadow) else None
    rig = before.rig if before is not None else make_rig(handle, observer, watchdog)
    if own is not None:
        source, skip = loaded, {profile.name for profile in loaded.config.scheduling_profiles} - {own}
    else:
        source = _other(loaded)
        skip = {name for name in (shadow_profile(source),) if name is not None}
    plan = Builder(
        source,
        installed_plugins(),
        rig.handle,
        rig.observer,
        before.plan if before is not None else None,
        rig.watchdog,
        skip,
    ).build()
    return Shadow(plan, live, rig, loaded.config.shadow_share)


def _other(loaded: LoadedConfig) -> LoadedConfig:
    """A file beside the configuration, or a preset."""
    name = loaded.config.shadow or ""
    preset = name.removeprefix(PRESET)
    beside = Path(loaded.source).parent / name
    if not name.startswith(PRESET) and beside.is_file():
        return load_config(*read_source(str(beside)))
    if preset not in preset_names():
        names = [profile.name for profile in loaded.config.scheduling_profiles] if not loaded.short else []
        hint = f"profiles: {', '.join(names) or 'none'}; presets: {', '.join(preset_names())}"
        raise _wrong(loaded, f"no profile, file or preset is named {name!r}", hint)
    return load_config(*read_source(preset))


def _wrong(loaded: LoadedConfig, message: str, hint: str) -> ConfigError:
    return loaded.error(ConfigError(message, hint=hint), (*loaded.root, "shadow"))
