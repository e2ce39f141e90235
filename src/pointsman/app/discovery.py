"""Where endpoints come from on machines without Kubernetes: flags, or a file that is watched."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

import msgspec

from pointsman.datalayer.datastore import EndpointSpec
from pointsman.datalayer.discovery import parse_endpoint_urls, parse_endpoints_file
from pointsman.errors import ConfigError
from pointsman.framework.file_watch import FileChange, FileWatcher

POLL_S = 0.25


class EndpointOptions(msgspec.Struct, frozen=True, kw_only=True):
    """Endpoints as given on the command line: URLs, or a file in llm-d's file-discovery format, not both."""

    urls: tuple[str, ...] = ()
    file: Path | None = None

    def flags(self) -> list[str]:
        """The same as command-line flags, for a child process."""
        if self.file is not None:
            return ["--endpoints-file", str(self.file)]
        return [flag for url in self.urls for flag in ("--endpoint", url)]


class Discovery:
    """Reads the endpoints once, then follows the file."""

    def __init__(
        self,
        options: EndpointOptions,
        use: Callable[[Sequence[EndpointSpec]], None],
        refuse: Callable[[ConfigError], None],
    ) -> None:
        self._options = options
        self._use = use
        self._refuse = refuse
        self._watcher: FileWatcher | None = None

    async def start(self) -> None:
        """Hand on the endpoints as they are now and begin to watch.

        Raises:
            ConfigError: if they cannot be read now; later mistakes go to ``refuse`` and the old set stays.
        """
        file = self._options.file
        if (file is None) == (not self._options.urls):
            raise ConfigError("give endpoints", hint="--endpoint http://10.0.0.1:8000 ..., or --endpoints-file FILE")
        if file is None:
            self._use(parse_endpoint_urls(self._options.urls, source="--endpoint"))
            return
        watcher = FileWatcher(file, POLL_S, self._changed)
        for change in watcher.read_now():
            self._use(self._parse(change))
        self._watcher = watcher
        await watcher.start()

    async def stop(self) -> None:
        if self._watcher is not None:
            await self._watcher.stop()

    def _changed(self, change: FileChange) -> None:
        try:
            self._use(self._parse(change))
        except ConfigError as error:
            self._refuse(error)

    @staticmethod
    def _parse(change: FileChange) -> list[EndpointSpec]:
        if change.text is None:
            raise ConfigError(change.problem or "cannot be read", source=str(change.path))
        return parse_endpoints_file(change.text, str(change.path))
