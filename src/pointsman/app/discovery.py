"""Where endpoints come from: flags, DNS names, a file that is watched. Several sources make one set."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path

import msgspec

from pointsman.app.kubernetes import KubeOptions, Kubernetes
from pointsman.datalayer.datastore import EndpointSpec
from pointsman.datalayer.dns_names import is_dns_url, parse_dns_url
from pointsman.datalayer.dns_source import DnsSource
from pointsman.datalayer.sources import FileSource, Refuse, Source, StaticSource, Use
from pointsman.errors import ConfigError
from pointsman.framework.observer import Observer

MakeSource = Callable[[Use, Refuse], Source]


class EndpointOptions(msgspec.Struct, frozen=True, kw_only=True):
    """Endpoints as given on the command line: URLs, or a file in llm-d's file-discovery format, not both."""

    urls: tuple[str, ...] = ()
    """``http://host:port``, ``dns://name:port`` or ``dns+srv://name``, in any mixture."""
    file: Path | None = None
    kube: KubeOptions | None = None

    def flags(self) -> list[str]:
        """The same as command-line flags, for a child process."""
        if self.kube is not None:
            return self.kube.flags()
        if self.file is not None:
            return ["--endpoints-file", str(self.file)]
        return [flag for url in self.urls for flag in ("--endpoint", url)]


class Discovery:
    """Reads the endpoints once, then follows each source; is itself a :class:`Source`.

    A change of one source is put together with what the others said last, in the order of the flags. An ip:port that
    several of them know is the first one's.
    """

    def __init__(self, options: EndpointOptions, use: Use, refuse: Refuse, observer: Observer | None = None) -> None:
        self._options = options
        self._use = use
        self._refuse = refuse
        self._observer = observer or Observer()
        self._sources: list[Source] = []
        self._sets: list[Sequence[EndpointSpec]] = []
        self._started = False

    async def start(self) -> None:
        """Hand on the endpoints as they are now and begin to watch.

        Raises:
            ConfigError: if they cannot be read now; later mistakes go to ``refuse`` and the old set stays.
        """
        makers = _makers(self._options, self._observer)
        self._sets = [() for _ in makers]
        for number, make in enumerate(makers):
            source = make(partial(self._take, number), self._refuse)
            self._sources.append(source)
            await source.start()
        self._started = True
        self._use(_together(self._sets))

    async def stop(self) -> None:
        sources, self._sources, self._started = self._sources, [], False
        for source in sources:
            await source.stop()

    def _take(self, number: int, specs: Sequence[EndpointSpec]) -> None:
        self._sets[number] = specs
        if self._started:  # before, some would be missing
            self._use(_together(self._sets))


def _makers(options: EndpointOptions, observer: Observer) -> list[MakeSource]:
    """The sources that options name.

    Raises:
        ConfigError: if they name none, or too much.
    """
    if options.kube is not None:
        # here we only follow; who leads is decided among pickers
        return [partial(Kubernetes, msgspec.structs.replace(options.kube, leader_election=False))]
    if (options.file is None) == (not options.urls):
        raise ConfigError("give endpoints", hint="--endpoint http://10.0.0.1:8000 ..., or --endpoints-file FILE")
    if options.file is not None:
        return [partial(FileSource, options.file)]
    fixed = [url for url in options.urls if not is_dns_url(url)]
    targets = dict.fromkeys(parse_dns_url(url) for url in options.urls if is_dns_url(url))
    makers: list[MakeSource] = [partial(StaticSource, fixed)] if fixed else []
    return makers + [partial(DnsSource, target, observer=observer) for target in targets]


def _together(sets: Sequence[Sequence[EndpointSpec]]) -> list[EndpointSpec]:
    if len(sets) == 1:
        return list(sets[0])
    places: dict[tuple[str, int], EndpointSpec] = {}
    for spec in (spec for specs in sets for spec in specs):
        places.setdefault((spec.address, spec.port), spec)
    return list({spec.id: spec for spec in reversed(places.values())}.values())[::-1]
