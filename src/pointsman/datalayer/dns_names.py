"""Endpoints behind a DNS name: what may be written, and what an answer means. No I/O.

What an answer means follows Envoy and HAProxy: a server that cannot be asked says nothing about the fleet, so the last
good set stays; an authoritative "no such name" or "no such record" empties it, here only when it was heard three times
in a row, since that is also what a DNS server says which is just starting.
"""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Mapping, Sequence
from typing import NamedTuple

import msgspec

from pointsman.datalayer.datastore import EndpointSpec
from pointsman.datalayer.discovery import check_address, check_port
from pointsman.datalayer.ports import MAX_PORTS
from pointsman.errors import ConfigError

SCHEMES = ("dns", "dns+srv")
MIN_WAIT, MAX_WAIT = 1.0, 60.0
"""Seconds between two questions, whatever the TTL says."""
MAX_RETRY = 30.0
EMPTY_ANSWERS = 3
"""Authoritative empty answers in a row that empty the set."""
PRIORITY_LABEL = "pointsman/srv-priority"
WEIGHT_LABEL = "pointsman/srv-weight"

_LABEL = r"[A-Za-z0-9_]([A-Za-z0-9_-]{0,61}[A-Za-z0-9])?"
_NAME = re.compile(rf"{_LABEL}(\.{_LABEL})*\.?")
_FORMS = "write dns://name:8000 or dns+srv://_http._tcp.name"


class DnsTarget(msgspec.Struct, frozen=True):
    """A name to follow."""

    name: str
    ports: tuple[int, ...] = ()
    """Of every address; empty for SRV, whose records bring theirs."""

    @property
    def srv(self) -> bool:
        return not self.ports

    def __str__(self) -> str:
        ports = ",".join(map(str, self.ports))
        return f"dns://{self.name}:{ports}" if ports else f"dns+srv://{self.name}"


class Place(NamedTuple):
    """One server that an answer names."""

    host: str
    address: str
    port: int
    labels: tuple[tuple[str, str], ...] = ()


class Found(NamedTuple):
    """The name has these servers; none at all is an authoritative answer, too."""

    places: Sequence[Place]
    ttl: float
    """Seconds, the shortest of all records behind the answer."""
    why: str = ""
    """Why there is none, when there is none."""


class Failed(NamedTuple):
    """Nobody who must know could be asked."""

    why: str


Answer = Found | Failed


class Step(NamedTuple):
    """What to do after an answer."""

    wait: float
    """Seconds until the next question."""
    specs: list[EndpointSpec] | None = None
    """The new set, when it is another one."""
    problem: str | None = None
    """What to tell people; once for each outage."""


def is_dns_url(url: str) -> bool:
    """Whether this is for us: ``dns://`` or ``dns+srv://``."""
    scheme, separator, _ = url.strip().partition("://")
    return bool(separator) and scheme.lower() in SCHEMES


def parse_dns_url(url: str) -> DnsTarget:
    """``dns://vllm.default.svc:8000`` (several ports: ``:8000,8001``) or ``dns+srv://_http._tcp.vllm.default.svc``.

    Raises:
        ConfigError: with a hint, if it cannot be used.
    """
    scheme, _, rest = url.strip().partition("://")
    name, colon, ports = rest.rstrip("/").partition(":")
    if not _NAME.fullmatch(name) or len(name) > 253 or _is_address(name):
        raise ConfigError(f"{url!r}: {name!r} is not a DNS name", hint=_FORMS)
    if scheme.lower() == "dns+srv":
        if colon:
            raise ConfigError(f"{url!r}: SRV records bring their ports", hint=_FORMS)
        return DnsTarget(name)
    if not ports:
        raise ConfigError(f"{url!r} has no port", hint=_FORMS)
    numbers = tuple(_port(url, word) for word in ports.split(","))
    if len(set(numbers)) != len(numbers) or len(numbers) > MAX_PORTS:
        raise ConfigError(f"{url!r}: expected at most {MAX_PORTS} different ports")
    return DnsTarget(name, numbers)


def _port(url: str, word: str) -> int:
    try:
        return check_port(word)
    except ConfigError as error:
        raise ConfigError(f"{url!r}: {error.message}", hint=_FORMS) from None


def _is_address(name: str) -> bool:
    try:
        ipaddress.ip_address(name)
    except ValueError:
        return False
    return True


class DnsFollower:
    """Turns the answers to one name into sets of endpoints. Servers are sorted: DNS deals its records out in turn."""

    def __init__(self, target: DnsTarget) -> None:
        self._target = target
        self._specs: list[EndpointSpec] | None = None
        self._failures = self._empties = 0
        self._told = False

    def note(self, answer: Answer) -> Step:
        """Take note of one answer."""
        if isinstance(answer, Failed):
            return self._failed(answer.why)
        self._failures = 0
        specs = _specs(answer.places)
        if specs:
            self._empties, self._told = 0, False
            return Step(_bounded(answer.ttl), self._new(specs))
        return self._empty(answer)

    def _failed(self, why: str) -> Step:
        self._failures, self._empties = self._failures + 1, 0
        wait = min(MAX_RETRY, MIN_WAIT * 2.0 ** min(self._failures - 1, 10))
        return Step(wait, None, self._tell(f"{self._target}: {why}; the last known endpoints stay"))

    def _empty(self, answer: Found) -> Step:
        self._empties += 1
        then = f"{EMPTY_ANSWERS} such answers in a row empty the set" if self._specs else "is the name right?"
        problem = self._tell(f"{self._target}: {answer.why or 'no usable address'} ({then})")
        # At the start there is nothing to lose: a fleet scaled to zero must not keep the picker from starting.
        if self._specs and self._empties < EMPTY_ANSWERS:
            return Step(MIN_WAIT, None, problem)
        return Step(_bounded(min(answer.ttl, 5.0)), self._new([]), problem)

    def _new(self, specs: list[EndpointSpec]) -> list[EndpointSpec] | None:
        if specs == self._specs:
            return None
        self._specs = specs
        return specs

    def _tell(self, problem: str) -> str | None:
        told, self._told = self._told, True
        return None if told else problem


def _bounded(ttl: float) -> float:
    return max(MIN_WAIT, min(MAX_WAIT, ttl))


def _specs(places: Sequence[Place]) -> list[EndpointSpec]:
    specs: dict[tuple[str, int], EndpointSpec] = {}
    for place in sorted(set(places), key=_order):
        try:
            address, port = check_address(place.address), check_port(place.port)
        except ConfigError:
            continue  # 0.0.0.0, as blocking resolvers say, or port 0
        specs.setdefault((address, port), _spec(place.host, address, port, dict(place.labels)))
    return list(specs.values())


def _spec(host: str, address: str, port: int, labels: Mapping[str, str]) -> EndpointSpec:
    # Always with the address, other than for names resolved once: an endpoint must keep its name when a second comes.
    shown = f"[{address}]" if ":" in address else address
    return EndpointSpec(name=f"{host.rstrip('.')}@{shown}:{port}", address=address, port=port, labels=labels)


def _order(place: Place) -> tuple[int, int, int, str, tuple[tuple[str, str], ...]]:
    try:
        address = ipaddress.ip_address(place.address)
    except ValueError:
        return 0, 0, place.port, place.host, place.labels
    return address.version, int(address), place.port, place.host, place.labels
