"""Endpoints from the command line and from files.

The file format is llm-d's ``file-discovery``, so a file can be shared between both routers: YAML or JSON,
``endpoints: [{name, namespace, address, port, labels}]``, at most 1 MiB. Unlike llm-d, a name given twice is refused
instead of the last one winning, IPv6 addresses are welcome, and a port may be a number as well as a string. Ours alone
are ``ports`` (several servers behind one address, each an endpoint of its own) and ``drain``.
"""

from __future__ import annotations

import ipaddress
import re
import socket
from collections.abc import Callable, Mapping, Sequence
from typing import TypeVar
from urllib.parse import SplitResult, urlsplit

import msgspec
from msgspec import UNSET, UnsetType

from pointsman.datalayer.datastore import DRAIN_LABEL, EndpointSpec
from pointsman.datalayer.ports import MAX_PORTS, by_rank
from pointsman.errors import ConfigError
from pointsman.framework.yaml_lines import Document, convert, load_yaml

MAX_FILE_BYTES = 1024 * 1024

_NAME = re.compile(r"[A-Za-z0-9]([A-Za-z0-9._:@\[\]-]{0,251}[A-Za-z0-9])?")
_NAMESPACE = re.compile(r"[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?")
_HOST_NAME = re.compile(r"[A-Za-z0-9_]([A-Za-z0-9._-]{0,251}[A-Za-z0-9])?")
_HOST_PORT = re.compile(r"[^:]+:\d+")

T = TypeVar("T")

Resolver = Callable[[str], Sequence[str]]
"""Host name to IP addresses; raises OSError."""


class _Entry(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    name: str
    address: str
    port: int | str | UnsetType = UNSET
    ports: list[int | str] | UnsetType = UNSET
    namespace: str = "default"
    labels: Mapping[str, str] = {}
    drain: bool = False


class _File(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    endpoints: list[_Entry]


def parse_endpoints_file(text: str, source: str) -> list[EndpointSpec]:
    """Read an endpoint file.

    Args:
        text: the content.
        source: the file's name, for messages.

    Raises:
        ConfigError: with line and field, on anything that is not exactly as it should be: an unknown field, a wrong
            type, an address that is no IP address, a port out of range, a name or ip:port given twice.
            An empty list is fine: a fleet scaled to zero.
    """
    if len(text) > MAX_FILE_BYTES or len(text.encode(errors="replace")) > MAX_FILE_BYTES:
        raise ConfigError(f"larger than {MAX_FILE_BYTES} bytes", source=source)
    document = load_yaml(text, source)
    file = convert(document, _File)
    specs = [(index, spec) for index, entry in enumerate(file.endpoints) for spec in _specs(document, index, entry)]
    _refuse_twins(document, specs)
    return [spec for _, spec in specs]


def _specs(document: Document, index: int, entry: _Entry) -> list[EndpointSpec]:
    def check(field: str, check: Callable[[], T]) -> T:
        try:
            return check()
        except ConfigError as error:
            raise document.error(error.message, ("endpoints", index, field), error.hint) from None

    name = check("name", lambda: _check_name(entry.name))
    namespace = check("namespace", lambda: _check_namespace(entry.namespace))
    address = check("address", lambda: check_address(entry.address))
    labels = check("labels", lambda: _check_labels(entry.labels))
    if entry.drain:
        labels = {**labels, DRAIN_LABEL: "true"}
    if entry.ports is not UNSET:
        ports = check("ports", lambda: _check_ports(entry))
        return check("labels", lambda: by_rank(name, address, ports, namespace=namespace, labels=labels))
    if isinstance(entry.port, UnsetType):
        hint = "ports: [8000, 8001] if there are several servers at the address"
        raise document.error("`port` is missing", ("endpoints", index), hint)
    number = entry.port
    port = check("port", lambda: check_port(number))
    return [EndpointSpec(name=name, address=address, port=port, namespace=namespace, labels=labels)]


def _refuse_twins(document: Document, specs: Sequence[tuple[int, EndpointSpec]]) -> None:
    names: dict[str, int] = {}
    places: dict[tuple[str, int], int] = {}
    for index, spec in specs:
        first = names.setdefault(spec.id, index)
        if first != index:
            raise document.error(f"{spec.id} is also the name of endpoints[{first}]", ("endpoints", index, "name"))
        first = places.setdefault((spec.address, spec.port), index)
        if first != index:
            message = f"{spec.address} port {spec.port} is also the place of endpoints[{first}]"
            raise document.error(message, ("endpoints", index, "address"))


def _check_name(name: str) -> str:
    if not _NAME.fullmatch(name):
        raise ConfigError(f"{name!r} is not a name: letters, digits, '-', '.', '_' and ':', at most 253")
    return name


def _check_namespace(namespace: str) -> str:
    if not _NAMESPACE.fullmatch(namespace):
        raise ConfigError(f"{namespace!r} is not a namespace: lower-case letters, digits and '-', at most 63")
    return namespace


def _check_ports(entry: _Entry) -> list[int]:
    if entry.port is not UNSET:
        raise ConfigError("port and ports are both given", hint="keep one of them")
    ports = [check_port(port) for port in ([] if isinstance(entry.ports, UnsetType) else entry.ports)]
    if not 1 <= len(ports) <= MAX_PORTS or len(set(ports)) != len(ports):
        raise ConfigError(f"expected 1 to {MAX_PORTS} different ports")
    return ports


def _check_labels(labels: Mapping[str, str]) -> Mapping[str, str]:
    if not all(labels):
        raise ConfigError("a label has an empty name")
    return labels


def check_address(address: str) -> str:
    """An IP address in its canonical form.

    Raises:
        ConfigError: if it is none, or one that cannot be connected to.
    """
    try:
        parsed = ipaddress.ip_address(address)
    except ValueError:
        hint = "the port has its own field" if _HOST_PORT.fullmatch(address) else None
        raise ConfigError(f"{address!r} is not an IP address", hint=hint) from None
    if parsed.is_unspecified or parsed.is_multicast or getattr(parsed, "scope_id", None):
        raise ConfigError(f"{address!r} is not the address of one server")
    return str(parsed)


def check_port(port: int | str) -> int:
    """A port from 1 to 65535; llm-d writes it as a string.

    Raises:
        ConfigError: if it is none.
    """
    if isinstance(port, str):
        if not (port.isascii() and port.isdecimal() and len(port) <= 5):
            raise ConfigError(f"{port!r} is not a port")
        port = int(port)
    if not 1 <= port <= 65535:
        raise ConfigError(f"port {port} is not between 1 and 65535")
    return port


def resolve_host(host: str) -> list[str]:
    """All IPv4 addresses of a name, or the IPv6 ones when it has no other. Blocks on DNS.

    Both families at once would list a dual-stack server twice.

    Raises:
        OSError: if the name cannot be resolved.
    """
    found = socket.getaddrinfo(host, None, type=socket.SOCK_STREAM)
    by_family: dict[int, list[str]] = {}
    for family, _, _, _, address in found:
        by_family.setdefault(family, []).append(str(address[0]))
    return list(dict.fromkeys(by_family.get(socket.AF_INET) or by_family.get(socket.AF_INET6) or []))


def parse_endpoint_urls(
    urls: Sequence[str], *, source: str = "--endpoints", resolve: Resolver = resolve_host
) -> list[EndpointSpec]:
    """Endpoints from ``http://10.0.0.1:8000``, ``10.0.0.2:8000``, ``[::1]:8000`` or ``http://pod.example:8000``.

    Names are resolved here and now, because the proxy is told ip:port; one that has several addresses (a headless
    Kubernetes Service) gives one endpoint for each.

    Args:
        urls: one entry per endpoint.
        source: where they come from, for messages.
        resolve: replaces DNS in tests.

    Raises:
        ConfigError: with the entry as the field, if one cannot be used or names a place for the second time.
    """
    if not urls:
        raise ConfigError("no endpoint is given", source=source, hint="for example http://10.0.0.1:8000")
    specs: dict[tuple[str, int], EndpointSpec] = {}
    for index, url in enumerate(urls):
        try:
            found = _from_url(url.strip(), resolve)
        except ConfigError as error:
            raise error.at(source=source, field=f"endpoints[{index}]") from None
        for spec in found:
            if (spec.address, spec.port) in specs:
                message = f"{url!r}: {spec.address} port {spec.port} is given twice"
                raise ConfigError(message, source=source, field=f"endpoints[{index}]")
            specs[spec.address, spec.port] = spec
    return list(specs.values())


def _from_url(url: str, resolve: Resolver) -> list[EndpointSpec]:
    host, port = _split(url)
    place = f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
    if ":" in host or re.fullmatch(r"[\d.]+", host):
        return [EndpointSpec(name=place, address=check_address(host), port=port)]
    if not _HOST_NAME.fullmatch(host):
        raise ConfigError(f"{url!r}: {host!r} is not a host name")
    try:
        addresses = resolve(host)
    except (OSError, UnicodeError) as error:
        raise ConfigError(f"{url!r}: {host!r} cannot be resolved: {error}") from None
    if not addresses:
        raise ConfigError(f"{url!r}: {host!r} has no address")
    several = len(addresses) > 1
    names = [f"{host}@{address}:{port}" if several else place for address in addresses]
    return [
        EndpointSpec(name=name, address=check_address(address), port=port)
        for name, address in zip(names, addresses, strict=True)
    ]


def _split(url: str) -> tuple[str, int]:
    scheme, separator, _ = url.partition("://")
    if separator and scheme.lower() == "https":
        raise ConfigError(f"{url!r}: https is not supported", hint="name the plain-text port, http://host:port")
    if separator and scheme.lower() != "http":
        raise ConfigError(f"{url!r}: the scheme {scheme!r} is not known", hint="write http://host:port or host:port")
    parts, port = _url_parts(url, url if separator else f"http://{url}")
    if not parts.hostname:
        raise ConfigError(f"{url!r} names no host", hint="write http://host:port or host:port")
    if parts.path not in {"", "/"} or parts.query or parts.fragment or parts.username is not None:
        raise ConfigError(f"{url!r} holds more than host and port", hint="write http://host:port or host:port")
    if port is None:
        raise ConfigError(f"{url!r} has no port", hint="for example :8000")
    return parts.hostname, check_port(port)


def _url_parts(shown: str, url: str) -> tuple[SplitResult, int | None]:
    try:
        parts = urlsplit(url)
        port = parts.port
    except ValueError as error:
        raise ConfigError(f"{shown!r} cannot be read: {error}") from None
    return parts, port
