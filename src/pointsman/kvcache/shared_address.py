"""The address of a Redis or Valkey server as people write it."""

from __future__ import annotations

from importlib.util import find_spec
from urllib.parse import parse_qsl, urlsplit

from pointsman.errors import ConfigError

_SCHEMES = {"redis": "redis", "rediss": "rediss", "valkey": "redis", "valkeys": "rediss"}
_SETTINGS = frozenset({"ssl_ca_certs", "ssl_cert_reqs", "ssl_certfile", "ssl_check_hostname", "ssl_keyfile", "db"})
"""What may follow a question mark."""
_HINT = "write redis://HOST:6379/0, rediss:// for TLS, unix:///PATH for a socket, or HOST:PORT"


def shared_address(text: str, field: str) -> str:
    """The address as the client wants it: ``valkey://`` and ``HOST:PORT`` become ``redis://``.

    Args:
        text: as written.
        field: where, for the error.

    Raises:
        ConfigError: if it is no address, or if the extra with the client is not installed.
    """
    url = text.strip()
    if "://" not in url:
        url = f"redis://{url}"
    try:
        parts = urlsplit(url)
        port, host = parts.port, parts.hostname
    except ValueError as error:
        raise ConfigError(f"no address of a Redis or Valkey server: {error}", field=field, hint=_HINT) from error
    scheme, database = _SCHEMES.get(parts.scheme, ""), parts.path.strip("/")
    if parts.scheme == "unix":
        good = bool(parts.path)
    else:
        good = bool(scheme and host and port != 0) and (not database or (database.isascii() and database.isdigit()))
    if not good:
        raise ConfigError(f"no address of a Redis or Valkey server: {_shown(text)!r}", field=field, hint=_HINT)
    for name, value in parse_qsl(parts.query, keep_blank_values=True):
        if name not in _SETTINGS or (name == "db" and not (value.isascii() and value.isdigit())):
            raise ConfigError(f"{name}={value}: no such setting", field=field, hint=", ".join(sorted(_SETTINGS)))
    if find_spec("redis") is None:
        raise ConfigError(
            "sharing the index needs the client library of Redis", field=field, hint="pip install 'pointsman[redis]'"
        )
    return url if parts.scheme == "unix" else scheme + url[len(parts.scheme) :]


def shown_address(url: str) -> str:
    """The address without user and password, for logs."""
    return _shown(url)


def _shown(url: str) -> str:
    head, there, tail = url.rpartition("@")
    return f"{head.partition('://')[0]}://…@{tail}" if there and "://" in head else f"…@{tail}" if there else url
