"""What every source of endpoints is, and the two simplest: given ones, and a file that is watched."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Protocol

from pointsman.datalayer.datastore import EndpointSpec
from pointsman.datalayer.discovery import parse_endpoint_urls, parse_endpoints_file
from pointsman.errors import ConfigError
from pointsman.framework.file_watch import FileChange, FileWatcher

POLL_S = 0.25

Use = Callable[[Sequence[EndpointSpec]], None]
"""Takes the whole set of a source's endpoints, each time it is another one."""
Refuse = Callable[[ConfigError], None]
"""Told when a source cannot be read any more; what it said last stays in force. Once for each outage."""


class Source(Protocol):
    """Somewhere endpoints come from. Made with ``use`` and ``refuse``; both are called on the event loop.

    A source that loses touch keeps quiet: an empty set is handed on only when someone who must know says that there is
    no endpoint.
    """

    async def start(self) -> None:
        """Hand on the endpoints as they are now and begin to follow their changes.

        Raises:
            ConfigError: if they cannot be read now.
        """

    async def stop(self) -> None:
        """End. Harmless when not started, and a second time."""


class StaticSource:
    """``http://host:port`` as given; names are resolved once."""

    def __init__(self, urls: Sequence[str], use: Use, refuse: Refuse) -> None:
        self._urls, self._use = urls, use

    async def start(self) -> None:
        self._use(parse_endpoint_urls(self._urls, source="--endpoint"))

    async def stop(self) -> None:
        """Nothing is under way."""


class FileSource:
    """A file in llm-d's file-discovery format, watched."""

    def __init__(self, file: Path, use: Use, refuse: Refuse) -> None:
        self._use, self._refuse = use, refuse
        self._watcher = FileWatcher(file, POLL_S, self._changed)

    async def start(self) -> None:
        for change in self._watcher.read_now():
            self._use(_parse(change))
        await self._watcher.start()

    async def stop(self) -> None:
        await self._watcher.stop()

    def _changed(self, change: FileChange) -> None:
        try:
            self._use(_parse(change))
        except ConfigError as error:
            self._refuse(error)


def _parse(change: FileChange) -> list[EndpointSpec]:
    if change.text is None:
        raise ConfigError(change.problem or "cannot be read", source=str(change.path))
    return parse_endpoints_file(change.text, str(change.path))
