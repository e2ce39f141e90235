"""Asks DNS servers, with dnspython.

Import it late: dnspython costs 85 ms, which only those should pay who have a ``dns://`` endpoint.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence

import dns.asyncresolver
import dns.exception
import dns.name
import dns.rdatatype
import dns.resolver
from dns.rdtypes.IN.A import A
from dns.rdtypes.IN.AAAA import AAAA
from dns.rdtypes.IN.SRV import SRV

from pointsman.datalayer.dns_names import PRIORITY_LABEL, WEIGHT_LABEL, Answer, DnsTarget, Failed, Found, Place

TRY_S = 2.0
"""Seconds one server is waited for."""
LIFETIME_S = 5.0
"""Seconds for one question, all servers and tries together."""
NO_NAME_S = 5.0
"""Seconds until a name that does not exist is asked for again."""
AT_ONCE = 16
"""Questions for addresses of SRV targets under way at once."""


class DnsLookup:
    """Looks names up as the machine's resolver configuration says, or at one given server."""

    def __init__(
        self, server: tuple[str, int] | None = None, *, try_s: float = TRY_S, lifetime_s: float = LIFETIME_S
    ) -> None:
        """Set up, without reading anything.

        Args:
            server: address and port, instead of those in ``/etc/resolv.conf``.
            try_s: seconds one server is waited for.
            lifetime_s: seconds for one question in all.
        """
        self._server = server
        self._try, self._lifetime = try_s, lifetime_s
        self._resolver: dns.asyncresolver.Resolver | None = None
        self._known: dict[dns.name.Name, list[str]] = {}
        """Last good addresses of SRV targets."""

    async def __call__(self, target: DnsTarget) -> Answer:
        """Ask for a name; never raises."""
        try:
            return await (self._srv(target) if target.srv else self._hosts(target))
        except (dns.exception.DNSException, OSError, EOFError, ValueError) as error:
            self._resolver = None  # the configuration may have changed: a laptop that moved
            return Failed(_words(error))

    async def _hosts(self, target: DnsTarget) -> Found:
        found, ttl = await self._addresses(target.name)
        places = [Place(target.name, address, port) for address in found for port in target.ports]
        return Found(places, ttl, "" if found else f"{target.name} has no address")

    async def _srv(self, target: DnsTarget) -> Found:
        answer = await self._ask(target.name, dns.rdatatype.SRV)
        records = [record for record in answer or () if isinstance(record, SRV) and record.target != dns.name.root]
        if answer is None or not records:
            return Found((), _ttl(answer), f"{target.name} has no SRV record")
        given = _additional(answer)
        missing = list({record.target: None for record in records if record.target not in given})
        gate = asyncio.Semaphore(AT_ONCE)
        looked_up = await asyncio.gather(*(self._target(name, gate) for name in missing), return_exceptions=True)
        ttl = _ttl(answer)
        for name, one in zip(missing, looked_up, strict=True):
            if isinstance(one, BaseException):
                raise one
            given[name], ttl = one[0], min(ttl, one[1])
        self._known = {name: given[name] for name in given if given[name]}
        places = [place for record in records for place in _places(record, given[record.target])]
        return Found(places, ttl, "" if places else f"no target of {target.name} has an address")

    async def _target(self, name: dns.name.Name, gate: asyncio.Semaphore) -> tuple[list[str], float]:
        """Addresses of one SRV target; when it cannot be asked for, those known, or none."""
        async with gate:
            try:
                return await self._addresses(name)
            except dns.exception.DNSException:
                known = self._known.get(name)
                if known is None:
                    raise
                return known, 0.0

    async def _addresses(self, name: dns.name.Name | str) -> tuple[list[str], float]:
        """IPv4, or IPv6 when there is no other: both would list a dual-stack server twice."""
        ttl = 0.0
        for kind in (dns.rdatatype.A, dns.rdatatype.AAAA):
            answer = await self._ask(name, kind)
            if answer is None:
                return [], NO_NAME_S
            ttl = _ttl(answer)
            if found := [record.address for record in answer if isinstance(record, A | AAAA)]:
                return found, ttl
        return [], ttl

    async def _ask(self, name: dns.name.Name | str, kind: dns.rdatatype.RdataType) -> dns.resolver.Answer | None:
        """The answer, which may be empty; None when there is no such name."""
        resolver = self._resolver = self._resolver or self._make_resolver()
        try:
            return await resolver.resolve(name, kind, raise_on_no_answer=False, search=True)
        except dns.resolver.NXDOMAIN:
            return None

    def _make_resolver(self) -> dns.asyncresolver.Resolver:
        resolver = dns.asyncresolver.Resolver(configure=self._server is None)
        if self._server is not None:
            address, port = self._server
            resolver.nameservers = [address]
            resolver.port = port
        resolver.timeout, resolver.lifetime = self._try, self._lifetime
        return resolver


def _ttl(answer: dns.resolver.Answer | None) -> float:
    return float(answer.chaining_result.minimum_ttl) if answer is not None else NO_NAME_S


def _additional(answer: dns.resolver.Answer) -> dict[dns.name.Name, list[str]]:
    """Addresses the answer brought along, IPv4 where there is one."""
    found: dict[dns.name.Name, list[str]] = {}
    for kind in (dns.rdatatype.A, dns.rdatatype.AAAA):
        for records in answer.response.additional:
            if records.rdtype == kind and records.name not in found:
                found[records.name] = [record.address for record in records if isinstance(record, A | AAAA)]
    return found


def _places(record: SRV, addresses: Sequence[str]) -> list[Place]:
    labels = ((PRIORITY_LABEL, str(record.priority)), (WEIGHT_LABEL, str(record.weight)))
    host = record.target.to_text(omit_final_dot=True).lower()
    return [Place(host, address, record.port, labels) for address in addresses]


def _words(error: Exception) -> str:
    if isinstance(error, dns.resolver.LifetimeTimeout):
        return "no DNS server answered in time"
    return " ".join(str(error).split())[:300] or type(error).__name__
