"""A real DNS server on loopback, UDP and TCP, whose zone a test changes as it likes."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from typing import cast

import dns.flags
import dns.message
import dns.rcode
import dns.rdatatype
import dns.rrset


class DnsServer:
    """Names are absolute, with the final dot. A name without records does not exist; an empty list is no data."""

    def __init__(self) -> None:
        self.records: dict[tuple[str, str], list[str]] = {}
        self.names: set[str] = set()
        self.ttl = 30
        self.glue = False
        self.servfail: set[str] = set()
        self.silent = False
        self.garbage = False
        self.asked: list[tuple[str, str, str]] = []
        """Transport, name and type of each question."""
        self.port = 0

    def a(self, name: str, *addresses: str, kind: str = "A") -> None:
        self.records[name, kind] = list(addresses)
        self.names.add(name)

    def srv(self, name: str, *records: str) -> None:
        self.a(name, *records, kind="SRV")

    def answer(self, wire: bytes, transport: str) -> bytes | None:
        query = dns.message.from_wire(wire)
        question = query.question[0]
        name, kind = question.name.to_text().lower(), dns.rdatatype.to_text(question.rdtype)
        self.asked.append((transport, name, kind))
        if self.silent:
            return None
        if self.garbage:
            return b"\x00\x01nonsense"
        response = dns.message.make_response(query, recursion_available=True)
        if name in self.servfail:
            response.set_rcode(dns.rcode.SERVFAIL)
        elif name not in self.names:
            response.set_rcode(dns.rcode.NXDOMAIN)
        elif found := self.records.get((name, kind)):
            response.answer.append(dns.rrset.from_text(name, self.ttl, "IN", kind, *found))
            if self.glue and kind == "SRV":
                for target in dict.fromkeys(record.split()[3] for record in found):
                    addresses = self.records.get((target, "A"), [])
                    response.additional.append(dns.rrset.from_text(target, self.ttl, "IN", "A", *addresses))
        return response.to_wire(max_size=512 if transport == "udp" else 65535, prefer_truncation=True)


class _Udp(asyncio.DatagramProtocol):
    def __init__(self, server: DnsServer) -> None:
        self._server = server

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        # The selector's transport is no asyncio.DatagramTransport by its class, only by what it can do.
        self._transport = cast("asyncio.DatagramTransport", transport)

    def datagram_received(self, data: bytes, addr: tuple[str, int]) -> None:
        if (answer := self._server.answer(data, "udp")) is not None:
            self._transport.sendto(answer, addr)


@asynccontextmanager
async def dns_server() -> AsyncIterator[DnsServer]:
    server = DnsServer()
    loop = asyncio.get_running_loop()

    async def tcp(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with suppress(asyncio.IncompleteReadError, ConnectionError):
            size = int.from_bytes(await reader.readexactly(2), "big")
            answer = server.answer(await reader.readexactly(size), "tcp")
            if answer is not None:
                writer.write(len(answer).to_bytes(2, "big") + answer)
                await writer.drain()
        writer.close()

    while True:
        transport, _ = await loop.create_datagram_endpoint(lambda: _Udp(server), local_addr=("127.0.0.1", 0))
        server.port = transport.get_extra_info("sockname")[1]
        try:
            listener = await asyncio.start_server(tcp, "127.0.0.1", server.port)
            break
        except OSError:  # someone else has that TCP port
            transport.close()
    try:
        yield server
    finally:
        transport.close()
        listener.close()
        await listener.wait_closed()
