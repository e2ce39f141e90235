"""The plan in force: load it, and swap it when its file or one of its plugin files changes.

A changed configuration is built completely before it replaces the old one; one that cannot be built is refused with
its error and the old one stays.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from pointsman.errors import ConfigError
from pointsman.framework.loader import load_config, read_source
from pointsman.framework.observer import Observer
from pointsman.framework.plan import Plan
from pointsman.framework.plugin import Handle
from pointsman.framework.watchdog import Watchdog
from pointsman.requestcontrol.planning import build_loaded, build_plan


class PlanKeeper:
    """Rebuilds the plan when asked and hands it on when it is good."""

    def __init__(
        self,
        name: str,
        handle: Handle,
        observer: Observer,
        use: Callable[[Plan], None],
        watchdog: Watchdog | None = None,
    ) -> None:
        self._name = name
        self._handle = handle
        self._observer = observer
        self._use = use
        self._wanted: list[Path] = []
        self.plan = build_plan(name, handle, observer, watchdog=watchdog)
        self.error: ConfigError | None = None
        """Why the newest version of the file was refused; None when it is in force."""

    def files(self) -> list[Path]:
        """What to watch: the configuration, unless it is a preset, and the plugin files it names.

        That includes files named by a version that was refused: mending one of them must be noticed, too.
        """
        own = [] if self.plan.source.startswith("preset:") else [Path(self._name)]
        return list(dict.fromkeys([*own, *(Path(file) for file in self.plan.files), *self._wanted]))

    def reload(self) -> bool:
        """Build anew; returns whether the new plan is in force."""
        try:
            loaded = load_config(*read_source(self._name))
            base = Path(loaded.source).parent
            self._wanted = [base / name for name in loaded.config.plugin_paths]
            if loaded.config.shadow is not None and (base / loaded.config.shadow).is_file():
                self._wanted.append(base / loaded.config.shadow)
            plan = build_loaded(loaded, self._handle, self._observer, self.plan, self.plan.watchdog)
        except ConfigError as error:
            self.error = error
            self._observer.config_loaded(ok=False)
            return False
        self.plan, self.error = plan, None
        self._use(plan)
        self._observer.config_loaded(ok=True)
        return True
