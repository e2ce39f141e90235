"""Which endpoint an answer comes from, when the proxy says that it was not the one picked."""

from __future__ import annotations

from collections.abc import Iterable

from pointsman.api.endpoint import Endpoint


class Served:
    """Remembers endpoints that were offered to the proxy, by ``ip:port``; as many as there are endpoints."""

    def __init__(self) -> None:
        self._offered: dict[str, Endpoint] = {}

    def offer(self, targets: Iterable[Endpoint]) -> None:
        """Note what a decision names: the proxy can use nothing else."""
        for endpoint in targets:
            self._offered[endpoint.hostport] = endpoint

    def find(self, chosen: Endpoint, served: str) -> Endpoint | None:
        """The endpoint that answered; ``served`` is ``""`` when the proxy does not tell. None: not one we know."""
        return chosen if served in ("", chosen.hostport) else self._offered.get(served)

    def forget(self, endpoint: Endpoint) -> None:
        """The endpoint is gone."""
        self._offered.pop(endpoint.hostport, None)
