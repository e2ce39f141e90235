"""The server's certificate: loaded for HTTP/2, and loaded again when its files change."""

from __future__ import annotations

import os
import ssl
import tempfile
from pathlib import Path

import msgspec

from pointsman.errors import StartupError


class TlsFiles(msgspec.Struct, frozen=True):
    """Paths of PEM files.

    Attributes:
        key: the private key.
        certificate: its certificate, with the chain.
        client_ca: certificates that vouch for clients; None lets in clients without a certificate.
    """

    key: str
    certificate: str
    client_ca: str | None = None


class TlsKeeper:
    """Holds the context of the listeners.

    Args:
        source: files, or key and certificate as bytes, which never change.

    Raises:
        StartupError: when they cannot be used.
    """

    def __init__(self, source: TlsFiles | tuple[bytes, bytes]) -> None:
        self._source = source
        self._stamp: tuple[float, ...] = ()
        self.context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
        self.context.set_alpn_protocols(["h2"])
        try:
            self.load()
        except OSError as error:  # SSLError is one
            raise StartupError(f"cannot use the TLS certificate: {error}; check key and certificate files") from error

    def load(self) -> None:
        """Read the files; handshakes from now on use what they hold.

        Raises:
            OSError: when they cannot be read or do not belong together; what was loaded before stays.
        """
        if isinstance(self._source, tuple):
            _load_bytes(self.context, *self._source)
            return
        self._stamp = self._now()
        # a trial context first: a pair that does not fit would leave half of itself in the one in use
        ssl.create_default_context(ssl.Purpose.CLIENT_AUTH).load_cert_chain(self._source.certificate, self._source.key)
        self.context.load_cert_chain(self._source.certificate, self._source.key)
        if self._source.client_ca is not None:
            self.context.load_verify_locations(self._source.client_ca)
            self.context.verify_mode = ssl.CERT_REQUIRED

    def changed(self) -> bool:
        """Whether the files are newer than what is loaded."""
        return not isinstance(self._source, tuple) and self._now() != self._stamp

    def _now(self) -> tuple[float, ...]:
        if isinstance(self._source, tuple):
            return ()
        paths = (self._source.key, self._source.certificate, self._source.client_ca)
        return tuple(_mtime(path) for path in paths if path is not None)


def _mtime(path: str) -> float:
    try:
        return Path(path).stat().st_mtime
    except OSError:
        return 0.0  # amid a replacement; the next look sees the new one


def _load_bytes(context: ssl.SSLContext, key: bytes, certificate: bytes) -> None:
    # the ssl module reads files only; this one is for our eyes and for a moment
    handle, path = tempfile.mkstemp()
    try:
        with os.fdopen(handle, "wb") as file:
            file.write(key + b"\n" + certificate)
        context.load_cert_chain(path)
    finally:
        Path(path).unlink()
