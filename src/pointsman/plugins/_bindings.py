"""Sessions and the endpoints that they are bound to, each for a while."""

from __future__ import annotations

from collections import OrderedDict
from hashlib import blake2b

from pointsman.api.endpoint import EndpointId
from pointsman.clock import Clock

_LONGEST = 64  # characters kept as they are; a client may send kilobytes


class Bindings:
    """A bounded map whose entries expire.

    Args:
        clock: tells the time.
        ttl: seconds without use after which a binding is void.
        most: bindings kept; beyond that the one unused for longest goes.
    """

    def __init__(self, clock: Clock, ttl: float, most: int) -> None:
        self._clock, self._ttl, self._most = clock, ttl, most
        self._bound: OrderedDict[str, tuple[EndpointId, float]] = OrderedDict()  # longest unused first

    def __len__(self) -> int:
        return len(self._bound)

    def find(self, session: str) -> EndpointId | None:
        """The endpoint that a session is bound to; asking is not using."""
        endpoint, used = self._bound.get(_short(session), (None, 0.0))
        return endpoint if endpoint is not None and self._clock.now() - used <= self._ttl else None

    def bind(self, session: str, endpoint: EndpointId) -> None:
        """Bind, or use again; drops what has expired, so that no timer is needed."""
        now, key = self._clock.now(), _short(session)
        self._bound[key] = (endpoint, now)
        self._bound.move_to_end(key)
        while len(self._bound) > self._most or now - next(iter(self._bound.values()))[1] > self._ttl:
            self._bound.popitem(last=False)


def _short(session: str) -> str:
    if len(session) <= _LONGEST:
        return session
    return blake2b(session.encode("utf-8", "surrogatepass"), digest_size=24).hexdigest()
