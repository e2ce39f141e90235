"""Talking to an API server.

lightkube finds out where it is and how to identify oneself (in a pod, by kubeconfig, by a helper program; a token that
changes is read again) and gives an HTTP client that does so. The requests are our own: its watch decodes whole objects,
knows no bookmarks, begins anew at once and for ever when a server hangs up, and splits lines at characters that may
stand inside of one.
"""

from __future__ import annotations

import ssl
from collections.abc import AsyncGenerator, AsyncIterator, Mapping
from contextlib import asynccontextmanager
from pathlib import Path

import httpx2
import msgspec
import yaml
from lightkube.config.client_adapter import AsyncClient, ConnectionParams
from lightkube.config.kubeconfig import KubeConfig, SingleConfig
from lightkube.config.models import User
from lightkube.core.exceptions import ConfigError as LightkubeError

from pointsman.errors import ConfigError
from pointsman.kube.api import ApiFailure, UnreachableError
from pointsman.kube.reflector import Problem

MAX_LINE = 16 * 1024 * 1024
"""Longest event; etcd holds objects of at most 1.5 MiB."""

_problem = msgspec.json.Decoder(Problem).decode


def find_cluster(kubeconfig: Path | None) -> SingleConfig:
    """Where the API server is, and who we are.

    Args:
        kubeconfig: a file; None for the pod's service account or, outside of a pod, ``KUBECONFIG`` or
            ``~/.kube/config``.

    Raises:
        ConfigError: if there is none that can be used.
    """
    source = str(kubeconfig) if kubeconfig is not None else "Kubernetes"
    try:
        config = KubeConfig.from_file(kubeconfig) if kubeconfig is not None else KubeConfig.from_env()
        found = config.get()
    except (
        LightkubeError,
        OSError,
        KeyError,
        TypeError,
        AttributeError,
        yaml.YAMLError,
        msgspec.MsgspecError,
    ) as error:
        hint = "run in a pod with a service account, or give --kubeconfig FILE"
        raise ConfigError(f"no cluster is configured: {error}", source=source, hint=hint) from error
    if found is None:
        raise ConfigError("it names no current context", source=source)
    # A user is asserted by lightkube; `kubectl proxy` needs none.
    return found if found.user is not None else found._replace(user=User())


class ApiClient:
    """HTTP to one API server."""

    def __init__(self, cluster: SingleConfig, *, timeout: float = 10.0, watch_silence: float = 90.0) -> None:
        """Set up, without connecting.

        Args:
            cluster: where.
            timeout: seconds for each step of an ordinary request.
            watch_silence: seconds without a byte after which a watch is given up. Servers send a bookmark each minute;
                one that sends none only makes us ask anew, where we were.

        Raises:
            ConfigError: if certificates or credentials cannot be read.
        """
        self.namespace = cluster.namespace
        self.server = cluster.cluster.server
        self._silence = httpx2.Timeout(timeout, read=watch_silence)
        parameters = ConnectionParams(timeout=httpx2.Timeout(timeout), trust_env=True)
        try:
            self._http = AsyncClient(cluster, parameters)
        except (LightkubeError, OSError, ssl.SSLError, ValueError) as error:
            raise ConfigError(f"cannot talk to {self.server}: {error}", source="Kubernetes") from error

    async def close(self) -> None:
        await self._http.aclose()

    async def request(
        self, method: str, path: str, params: Mapping[str, str] | None = None, body: bytes | None = None
    ) -> bytes:
        """One request.

        Raises:
            ApiFailure: the server answered that it will not.
            UnreachableError: it did not answer.
        """
        headers = {"content-type": "application/json"} if body is not None else {}
        async with _mapped():
            response = await self._http.request(method, path, params=params or {}, content=body, headers=headers)
        return _checked(response, response.content)

    async def watch(self, path: str, params: Mapping[str, str]) -> AsyncGenerator[bytes, None]:
        """The lines of a watch until the server ends it, and before them an empty one: the server has agreed.

        Raises:
            ApiFailure, UnreachableError: as :meth:`request`; also when the connection breaks or stays silent.
        """
        async with (
            _mapped(),
            self._http.stream("GET", path, params={**params, "watch": "true"}, timeout=self._silence) as response,
        ):
            if response.status_code != 200:
                _checked(response, await response.aread())
            yield b""
            rest = b""
            async for chunk in response.aiter_bytes():
                *lines, rest = (rest + chunk).split(b"\n")
                for line in lines:
                    if line.strip():
                        yield line
                if len(rest) > MAX_LINE:
                    raise UnreachableError("the server sends an event without end")


@asynccontextmanager
async def _mapped() -> AsyncIterator[None]:
    try:
        yield
    except httpx2.HTTPError as error:
        raise UnreachableError(f"{type(error).__name__}: {error}") from error
    except (LightkubeError, OSError, ssl.SSLError) as error:
        # a credential helper that fails, a token that is gone: as bad as no server, and as likely to pass
        raise UnreachableError(str(error)) from error


def _checked(response: httpx2.Response, content: bytes) -> bytes:
    if response.is_success:
        return content
    try:
        problem = _problem(content)
    except (msgspec.DecodeError, UnicodeError):
        problem = Problem()
    message = problem.message or content[:200].decode(errors="replace") or response.reason_phrase
    raise ApiFailure(problem.code or response.status_code, problem.reason, message)
