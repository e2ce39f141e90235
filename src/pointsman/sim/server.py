"""A simulated pod: vLLM's HTTP surface over a simulated engine."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable

import msgspec
from aiohttp import web

from pointsman.errors import BadRequestError, StartupError
from pointsman.sim.driver import EngineDriver
from pointsman.sim.emission import Emission
from pointsman.sim.engine import Engine
from pointsman.sim.events import EventPublisher
from pointsman.sim.kv import CacheEvent
from pointsman.sim.mailbox import Mailbox
from pointsman.sim.metrics_page import CONTENT_TYPE, MetricsPage
from pointsman.sim.openai import (
    Answer,
    Call,
    DetokenizeBody,
    GenerateBody,
    LoraBody,
    error_body,
    models_body,
    orca_header,
    parse,
    parse_call,
    prompt_tokens,
    token_strings,
)
from pointsman.sim.profiles import EngineProfile
from pointsman.sim.sequence import SimRequest
from pointsman.sim.tokens import detokenize

VERSION = "0.32.0"
MAX_BODY = 64 * 1024 * 1024
KEEPALIVE_S = 3600.0
"""Long, so that a proxy's idle connection is not closed under the request it is just sending."""

_Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]


class PodOptions(msgspec.Struct, frozen=True):
    """One simulated pod. Port 0 is any free port. Event port 0: no events; -1: any free port."""

    name: str
    profile: EngineProfile
    host: str = "127.0.0.1"
    port: int = 0
    model: str = ""
    """Served name; empty: the profile's."""
    adapters: tuple[str, ...] = ()
    max_loras: int = 0
    """Adapters on the device at once; 0: as many as ``adapters`` has."""
    time_scale: float = 1.0
    """Engine seconds per real second."""
    stream_interval: int = 1
    """Tokens per chunk, after the first token's own."""
    events_port: int = 0
    replay_port: int = 0


class SimulatedPod:
    """Serves until stopped; after :meth:`start`, ``port`` and ``sources`` say where."""

    def __init__(self, options: PodOptions) -> None:
        self.options = options
        self.port = options.port
        self.model = options.model or options.profile.model
        self.adapters = {name: f"/adapters/{name}" for name in options.adapters}
        max_loras = options.max_loras or len(options.adapters)
        self.engine = Engine(options.profile, max_loras=max_loras, events=bool(options.events_port))
        self._mailboxes: dict[str, Mailbox] = {}
        self._serial = 0
        self._started = time.time()
        self._page = MetricsPage(self.model, options.profile, self._started, max_loras)
        self._publisher = self._make_publisher()
        self._runner: web.AppRunner | None = None
        self._driver: EngineDriver | None = None
        self._stopping = False

    async def start(self) -> None:
        """Listen.

        Raises:
            StartupError: if an address is taken.
        """
        options = self.options
        loop = asyncio.get_running_loop()
        self._driver = EngineDriver(self.engine, loop, options.time_scale, self._deliver, self._publish)
        app = web.Application(client_max_size=MAX_BODY)
        app.add_routes(self._routes())
        # Cancellation tells a handler at once that its client is gone, also before the first token.
        self._runner = web.AppRunner(
            app, access_log=None, handler_cancellation=True, keepalive_timeout=KEEPALIVE_S, shutdown_timeout=2.0
        )
        await self._runner.setup()
        try:
            if self._publisher:
                self._publisher.start()
            await web.TCPSite(self._runner, options.host, options.port, backlog=1024).start()
        except (OSError, StartupError) as error:
            await self.stop()
            what = error if isinstance(error, StartupError) else f"cannot listen on {options.host}:{options.port}"
            raise StartupError(f"pod {options.name}: {what} (choose other ports)") from error
        self.port = self._runner.addresses[0][1]

    async def stop(self) -> None:
        """Stop as vLLM does on SIGTERM: running answers end cleanly, with the finish reason ``abort``."""
        self._stopping = True
        if self._driver:
            self._driver.stop()
        for mailbox in self._mailboxes.values():
            mailbox.end("abort")
        if self._runner:
            await self._runner.cleanup()
        if self._publisher:
            await self._publisher.stop()

    def sources(self) -> dict[str, dict[str, object]]:
        """Event sockets by data-parallel rank; empty when events are off."""
        return self._publisher.sources() if self._publisher else {}

    def _make_publisher(self) -> EventPublisher | None:
        options = self.options
        if not options.events_port:
            return None
        endpoint, replay = (
            f"tcp://*:{port if port > 0 else '*'}" for port in (options.events_port, options.replay_port)
        )
        topic = f"kv@{options.name}@{self.model}"
        return EventPublisher(endpoint, replay, topic, options.profile.block_size)

    def _deliver(self, emission: Emission) -> None:
        mailbox = self._mailboxes.get(emission.request_id)
        if mailbox:
            mailbox.put(emission)

    def _publish(self, events: list[CacheEvent]) -> None:
        if self._publisher:
            self._publisher.publish(events, time.time())

    def _routes(self) -> list[web.RouteDef]:
        posts: dict[str, _Handler] = {
            "/v1/completions": self._completions,
            "/v1/chat/completions": self._chat,
            "/tokenize": self._tokenize,
            "/detokenize": self._detokenize,
            "/v1/load_lora_adapter": self._load_adapter,
            "/v1/unload_lora_adapter": self._unload_adapter,
            "/reset_prefix_cache": self._reset_prefix_cache,
        }
        gets: dict[str, _Handler] = {
            "/health": self._health,
            "/ping": self._health,
            "/version": self._version,
            "/v1/models": self._models,
            "/metrics": self._metrics,
            "/kv_event_sources": self._sources,
        }
        routes = [web.post(path, self._guarded(handler)) for path, handler in posts.items()]
        return routes + [web.get(path, self._guarded(handler)) for path, handler in gets.items()]

    async def _completions(self, request: web.Request) -> web.StreamResponse:
        return await self._generate(request, parse_call(await request.read(), chat=False))

    async def _chat(self, request: web.Request) -> web.StreamResponse:
        return await self._generate(request, parse_call(await request.read(), chat=True))

    async def _generate(self, request: web.Request, call: Call) -> web.StreamResponse:
        model = call.model or self.model
        if model != self.model and model not in self.adapters:
            message = f"The model `{model}` does not exist. Valid aliases: {self.model}."
            return self._refusal(404, message, kind="NotFoundError", param="model")
        self.engine.check(len(call.tokens), call.max_tokens)
        self._serial += 1
        serial = str(self._serial)
        prefix = "chatcmpl" if call.chat else "cmpl"
        public = request.headers.get("X-Request-Id") or f"{self.options.name}-{self._serial:08x}"
        answer = Answer(call, f"{prefix}-{public}", model, int(time.time()), self.options.profile.block_size)
        adapter = model if model != self.model else None
        interval = self.options.stream_interval if call.stream else 0
        mailbox = self._mailboxes[serial] = Mailbox(serial)
        assert self._driver is not None
        try:
            self._driver.submit(SimRequest(serial, call.tokens, call.max_tokens, adapter, call.salt, interval))
            if call.stream:
                return await self._stream(request, answer, mailbox)
            return await self._whole(request, answer, mailbox)
        finally:
            del self._mailboxes[serial]
            self._driver.abort(serial)

    async def _stream(self, request: web.Request, answer: Answer, mailbox: Mailbox) -> web.StreamResponse:
        response = web.StreamResponse(headers=self._headers("text/event-stream; charset=utf-8"))
        await response.prepare(request)  # headers go out before the first token, as with uvicorn
        finished = None
        while not finished:
            news = await mailbox.get()
            finished = news.finished
            await response.write(answer.chunks(news.outputs, news.cached, finished))
        await response.write_eof()
        return response

    async def _whole(self, request: web.Request, answer: Answer, mailbox: Mailbox) -> web.StreamResponse:
        news = await mailbox.get()
        response = self._body(answer.whole(news.outputs, news.cached, news.finished or "length"))
        style = request.headers.get("endpoint-load-metrics-format")
        load = style and orca_header(style, self.engine.stats.waiting, self.engine.stats.kv_usage)
        if load:
            response.headers["endpoint-load-metrics"] = load
        return response

    async def _tokenize(self, request: web.Request) -> web.StreamResponse:
        body = parse(await request.read(), GenerateBody)
        tokens = prompt_tokens(body, chat=body.messages is not None).tolist()
        answer = {"count": len(tokens), "max_model_len": self.engine.max_length, "tokens": tokens}
        strings = token_strings(tokens) if body.return_token_strs else None
        return self._body(msgspec.json.encode(answer | {"token_strs": strings}))

    async def _detokenize(self, request: web.Request) -> web.StreamResponse:
        body = parse(await request.read(), DetokenizeBody)
        return self._body(msgspec.json.encode({"prompt": detokenize(body.tokens)}))

    async def _load_adapter(self, request: web.Request) -> web.StreamResponse:
        body = parse(await request.read(), LoraBody)
        name = body.lora_name
        if not self.engine.slots.capacity:
            raise BadRequestError("LoRA is not enabled: start with --max-loras")
        if name in self.adapters and not body.load_inplace:
            message = f"The lora adapter '{name}' has already been loaded."
            return self._refusal(400, message, kind="InvalidUserInput")
        self.adapters[name] = body.lora_path
        return web.Response(text=f"Success: LoRA adapter '{name}' added successfully.")

    async def _unload_adapter(self, request: web.Request) -> web.StreamResponse:
        name = parse(await request.read(), LoraBody).lora_name
        if self.adapters.pop(name, None) is None:
            message = f"The lora adapter '{name}' cannot be found."
            return self._refusal(404, message, kind="NotFoundError")
        return web.Response(text=f"Success: LoRA adapter '{name}' removed successfully.")

    async def _reset_prefix_cache(self, _: web.Request) -> web.StreamResponse:
        self.engine.pool.clear()  # vLLM answers 200 also when blocks in use kept it from clearing
        return web.Response()

    async def _health(self, _: web.Request) -> web.StreamResponse:
        return web.Response(status=503 if self._stopping else 200)

    async def _version(self, _: web.Request) -> web.StreamResponse:
        return self._body(msgspec.json.encode({"version": VERSION}))

    async def _models(self, _: web.Request) -> web.StreamResponse:
        return self._body(models_body(self.model, self.adapters, self.engine.max_length, int(time.time())))

    async def _metrics(self, _: web.Request) -> web.StreamResponse:
        return web.Response(body=self._page.render(self.engine.stats), headers={"Content-Type": CONTENT_TYPE})

    async def _sources(self, _: web.Request) -> web.StreamResponse:
        return self._body(msgspec.json.encode(self.sources()))

    def _headers(self, content_type: str) -> dict[str, str]:
        return {"Content-Type": content_type, "x-inference-pod": self.options.name}

    def _body(self, body: bytes) -> web.Response:
        return web.Response(body=body, headers=self._headers("application/json"))

    def _refusal(
        self, status: int, message: str, *, kind: str = "BadRequestError", param: str | None = None
    ) -> web.Response:
        body = error_body(status, message, kind=kind, param=param)
        return web.Response(body=body, status=status, headers=self._headers("application/json"))

    def _guarded(self, handler: _Handler) -> _Handler:
        """Answer refusals in vLLM's error form."""

        async def guarded(request: web.Request) -> web.StreamResponse:
            try:
                return await handler(request)
            except BadRequestError as error:
                return self._refusal(400, str(error))
            except ConnectionResetError:
                raise asyncio.CancelledError from None  # the client left while it was written to

        return guarded
