from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from contextlib import aclosing
from pathlib import Path

import pytest
from aiohttp import web
from tests.kube.world import write_kubeconfig

from pointsman.errors import ConfigError
from pointsman.kube.api import ApiFailure, Resource, UnreachableError
from pointsman.kube.client import ApiClient, find_cluster

Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]


def _serve(folder: Path, handler: Handler, ask: Callable[[ApiClient], Awaitable[None]], silence: float = 5.0) -> None:
    async def main() -> None:
        app = web.Application()
        app.router.add_route("*", "/{path:.*}", handler)
        runner = web.AppRunner(app, shutdown_timeout=0.1)
        await runner.setup()
        await web.TCPSite(runner, "127.0.0.1", 0).start()
        kubeconfig = write_kubeconfig(folder / "config", f"http://127.0.0.1:{runner.addresses[0][1]}", "ns")
        client = ApiClient(find_cluster(kubeconfig), watch_silence=silence)
        try:
            await ask(client)
        finally:
            await client.close()
            await runner.cleanup()

    asyncio.run(main())


async def _lines(client: ApiClient) -> list[bytes]:
    async with aclosing(client.watch("/", {})) as found:
        return [line async for line in found]


def test_who_we_are_and_where(tmp_path: Path) -> None:
    seen: list[str] = []

    async def handler(request: web.Request) -> web.Response:
        seen.append(f"{request.method} {request.path_qs} {request.headers['authorization']}")
        return web.Response(body=await request.read())

    async def ask(client: ApiClient) -> None:
        assert client.namespace == "ns"
        assert await client.request("PUT", "/apis/x", {"a": "b"}, b"{}") == b"{}"

    _serve(tmp_path, handler, ask)
    assert seen == ["PUT /apis/x?a=b Bearer secret"]


def test_refusals_keep_their_words(tmp_path: Path) -> None:
    async def handler(request: web.Request) -> web.Response:
        if request.path == "/status":
            status = {"kind": "Status", "code": 403, "reason": "Forbidden", "message": "pods is forbidden"}
            return web.json_response(status, status=403)
        return web.Response(status=502, text="<html>bad gateway</html>")

    async def ask(client: ApiClient) -> None:
        with pytest.raises(ApiFailure, match="403 Forbidden: pods is forbidden"):
            await client.request("GET", "/status")
        with pytest.raises(ApiFailure, match="502: <html>bad gateway") as caught:
            await client.request("GET", "/")
        assert caught.value.status == 502
        with pytest.raises(ApiFailure, match="502"):
            await _lines(client)

    _serve(tmp_path, handler, ask)


def test_lines_end_at_line_feeds_only(tmp_path: Path) -> None:
    """U+0085 and U+2028 may stand in an annotation; splitting text into lines would cut there."""
    lines = ['{"a": "x\u0085y"}', '{"b": "\u2028"}', '{"c": 1}']

    async def handler(request: web.Request) -> web.StreamResponse:
        assert request.query["watch"] == "true"
        response = web.StreamResponse()
        await response.prepare(request)
        data = "\n\n".join(lines).encode() + b"\nhalf"
        for at in range(0, len(data), 5):
            await response.write(data[at : at + 5])
        return response

    async def ask(client: ApiClient) -> None:
        assert await _lines(client) == [b"", *(line.encode() for line in lines)]

    _serve(tmp_path, handler, ask)


def test_a_silent_watch_is_given_up(tmp_path: Path) -> None:
    async def handler(request: web.Request) -> web.StreamResponse:
        response = web.StreamResponse()
        await response.prepare(request)
        await asyncio.sleep(30)
        return response

    async def ask(client: ApiClient) -> None:
        with pytest.raises(UnreachableError, match="ReadTimeout"):
            await _lines(client)

    _serve(tmp_path, handler, ask, silence=0.3)


@pytest.mark.parametrize(
    ("content", "words"),
    [
        ("nonsense: [", "no cluster"),
        ("{}", "no cluster"),
        ("clusters: []\ncontexts: []", "no cluster"),
        ("current-context: x\nclusters: []\ncontexts: []", "Context 'x' not found"),
        ("just text", "no cluster"),
    ],
)
def test_a_kubeconfig_that_cannot_be_used(tmp_path: Path, content: str, words: str) -> None:
    file = tmp_path / "config"
    file.write_text(content)
    with pytest.raises(ConfigError, match=words):
        find_cluster(file)
    with pytest.raises(ConfigError, match="not found"):
        find_cluster(tmp_path / "none")


def test_a_certificate_that_is_none(tmp_path: Path) -> None:
    file = write_kubeconfig(tmp_path / "config", "https://127.0.0.1:1", "ns")
    broken = "server: https://127.0.0.1:1\n    certificate-authority: missing.crt"
    file.write_text(file.read_text().replace("server: https://127.0.0.1:1", broken))
    with pytest.raises(ConfigError, match="cannot talk to"):
        ApiClient(find_cluster(file))


def test_a_proxy_needs_no_user(tmp_path: Path) -> None:
    file = write_kubeconfig(tmp_path / "config", "http://127.0.0.1:8001", "ns")
    file.write_text(file.read_text().replace("    user: u\n", ""))
    assert ApiClient(find_cluster(file)).server == "http://127.0.0.1:8001"


def test_paths() -> None:
    assert Resource("", "v1", "pods", "ns", labels="a=b").path == "/api/v1/namespaces/ns/pods"
    pool = Resource("g.io", "v1", "pools", "ns", name="p")
    assert pool.path == "/apis/g.io/v1/namespaces/ns/pools"
    assert pool.params == {"fieldSelector": "metadata.name=p"}
    assert str(pool) == "pools.v1.g.io"
