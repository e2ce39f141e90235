"""Asks a Prometheus: ``GET /api/v1/query``, with bounds on time and size."""

from __future__ import annotations

import asyncio
import ssl
from pathlib import Path

import aiohttp
import msgspec

from pointsman.api.config import PrometheusConfig
from pointsman.datalayer.promql_queries import Sample
from pointsman.errors import PointsmanError

MAX_ANSWER_BYTES = 8 * 1024 * 1024
"""A thousand endpoints with twenty labels are below 1 MiB."""
CONNECTIONS = 8
_MAX_SECRET_BYTES = 64 * 1024


class PrometheusError(PointsmanError):
    """Prometheus cannot be asked, or did not answer the question."""

    reason = "prometheus"
    code = "PrometheusError"


class _Series(msgspec.Struct):
    value: tuple[float, str]
    metric: dict[str, str] = {}


class _Data(msgspec.Struct, rename="camel"):
    result_type: str
    result: msgspec.Raw


class _Body(msgspec.Struct, rename="camel"):
    status: str
    data: _Data | None = None
    error: str = ""
    error_type: str = ""


_body = msgspec.json.Decoder(_Body)
_vector = msgspec.json.Decoder(list[_Series])
_scalar = msgspec.json.Decoder(tuple[float, str])


def parse_answer(body: bytes) -> list[Sample]:
    """Samples of an instant query's answer; a scalar is one sample without labels.

    Raises:
        PrometheusError: if it is an error, or neither a vector nor a scalar.
    """
    try:
        answer = _body.decode(body)
        if answer.status != "success" or answer.data is None:
            raise PrometheusError(f"{answer.error_type or 'error'}: {answer.error[:300] or 'no reason given'}")
        if answer.data.result_type == "vector":
            series = _vector.decode(answer.data.result)
        elif answer.data.result_type == "scalar":
            series = [_Series(_scalar.decode(answer.data.result))]
        else:
            raise PrometheusError(f"the query gives a {answer.data.result_type}, not an instant vector")
        return [Sample(one.metric, one.value[0], float(one.value[1])) for one in series]
    except (msgspec.MsgspecError, ValueError, RecursionError) as error:
        raise PrometheusError(f"the answer is not one of Prometheus: {str(error)[:300]}") from error


class PromqlClient:
    """One Prometheus. Used on one event loop; opens connections at the first question."""

    def __init__(self, config: PrometheusConfig) -> None:
        self._config = config
        self._url = config.url.rstrip("/") + "/api/v1/query"
        self._session: aiohttp.ClientSession | None = None
        self._headers: dict[str, str] = {}

    async def open(self) -> None:
        """Read secrets, which may have been renewed, and certificates at the first time.

        Raises:
            PrometheusError: if a file cannot be used.
        """
        try:
            self._headers = await asyncio.to_thread(self._authorization)
            if self._session is None:
                context = await asyncio.to_thread(self._context)
                self._session = aiohttp.ClientSession(
                    connector=aiohttp.TCPConnector(limit=CONNECTIONS, ssl=context),
                    timeout=aiohttp.ClientTimeout(total=None),  # the round has a deadline
                    cookie_jar=aiohttp.DummyCookieJar(),
                    headers={"Accept": "application/json", "User-Agent": "pointsman"},
                )
        except (OSError, ValueError) as error:
            raise PrometheusError(f"{error}") from error

    async def close(self) -> None:
        """Close all connections."""
        session, self._session = self._session, None
        if session is not None:
            await session.close()

    async def ask(self, query: str) -> list[Sample]:
        """Ask one instant query, as of now. Needs :meth:`open`.

        Raises:
            PrometheusError: if there is no answer to it.
        """
        if self._session is None:
            raise PrometheusError("not open")
        # In milliseconds, because "2.0s" is no duration to Prometheus.
        params = {"query": query, "timeout": f"{round(self._config.deadline_seconds * 1000)}ms"}
        try:
            # No redirects: they would carry the token elsewhere.
            async with self._session.get(
                self._url, params=params, headers=self._headers, allow_redirects=False
            ) as response:
                body = await _bounded(response)
                if response.status not in {200, 400, 422, 503}:  # the others have no JSON of Prometheus
                    raise PrometheusError(f"{self._url} answered {response.status}")
        except (aiohttp.ClientError, OSError) as error:
            raise PrometheusError(f"{self._url}: {str(error) or type(error).__name__}") from error
        return parse_answer(body)

    def _authorization(self) -> dict[str, str]:
        config = self._config
        if config.bearer_token_file is not None:
            return {"Authorization": f"Bearer {_secret(config.bearer_token_file)}"}
        if config.username is not None:
            password = _secret(config.password_file) if config.password_file is not None else ""
            return {"Authorization": aiohttp.encode_basic_auth(config.username, password)}
        return {}

    def _context(self) -> ssl.SSLContext | bool:
        if not self._config.url.startswith("https:"):
            return True
        return ssl.create_default_context(cafile=self._config.ca_file)


async def _bounded(response: aiohttp.ClientResponse) -> bytes:
    body = bytearray()
    async for chunk in response.content.iter_any():
        body += chunk
        if len(body) > MAX_ANSWER_BYTES:
            raise PrometheusError(f"the answer is larger than {MAX_ANSWER_BYTES} bytes")
    return bytes(body)


def _secret(file: str) -> str:
    """A token or password on the first line.

    Raises:
        ValueError: if it cannot stand in a header.
    """
    with Path(file).open("rb") as opened:
        text = opened.read(_MAX_SECRET_BYTES).decode("utf-8").strip()
    if not text or not text.isprintable():
        raise ValueError(f"{file} holds no token or password on a line of its own")
    return text
