"""Keeps the Director's model policies up to date: those of a file, and those of Kubernetes."""

from __future__ import annotations

from pathlib import Path

from pointsman.errors import ConfigError
from pointsman.framework.file_watch import FileChange, FileWatcher
from pointsman.kube.manifests import parse_policies
from pointsman.observability.logging import logger
from pointsman.requestcontrol.director import Director
from pointsman.requestcontrol.policies import NO_POLICIES, ModelPolicies

POLL_S = 0.5


class PolicyKeeper:
    """Puts policies together and in force; where both speak, the file does."""

    def __init__(self, director: Director, file: Path | None) -> None:
        self._director = director
        self._log = logger("policies")
        self._watcher = FileWatcher(file, POLL_S, self._changed) if file is not None else None
        self._of_file = self._of_cluster = NO_POLICIES

    async def start(self) -> None:
        """Read the file and begin to watch it.

        Raises:
            ConfigError: if it cannot be used now; later mistakes are logged and what was read before stays.
        """
        if self._watcher is not None:
            for change in self._watcher.read_now():
                self._of_file = _parse(change)
            self._put_in_force()
            await self._watcher.start()

    async def stop(self) -> None:
        if self._watcher is not None:
            await self._watcher.stop()

    def use(self, policies: ModelPolicies) -> None:
        """Take what Kubernetes says."""
        self._of_cluster = policies
        self._put_in_force()

    def _changed(self, change: FileChange) -> None:
        try:
            self._of_file = _parse(change)
        except ConfigError as error:
            self._log.error("policies refused, the old ones stay", error=str(error))
            return
        self._put_in_force()

    def _put_in_force(self) -> None:
        policies = self._director.policies = self._of_file.merged(self._of_cluster)
        self._log.info("policies in force", objectives=len(policies.objectives), rewrite_rules=len(policies.rules))


def _parse(change: FileChange) -> ModelPolicies:
    if change.text is None:
        raise ConfigError(change.problem or "cannot be read", source=str(change.path))
    return parse_policies(change.text, str(change.path))
