"""The index of KV caches shared by several replicas over Redis or Valkey: one :class:`SharedStore` per scope.

Every replica hears the pods' own events, and that stays the truth: nothing from here is ever mixed into it. What is
shared fills two holes. A replica that starts late or anew learns what was announced before (engines keep little to be
replayed), and one that cannot reach a pod learns what the others hear of it.

What is guaranteed:

- Of each holder (a pod's rank) the store has what its writer's view had, at a moment at most a flush ago, as long as
  the writer is connected; the change of the sets, the version and the log are one. A holder has one writer at a time:
  whoever's lease ran out, even if only because it was held up, cannot write any more.
- A reader's copy is the writer's view at some earlier moment, or it is marked stale and read anew: each change has a
  version, and a version that is missing shows.
- No request waits for the server, and nothing is raised when it is away. Then sharing ends, the log says so once, and
  when it is back every writer writes its holders whole.

The server should not evict (``maxmemory-policy noeviction``): a set that it drops is missing to readers until its pod
is written whole again. A block takes 64 B there.

What is not guaranteed is that it is still so. Blocks read are *remembered*, not known. They are kept apart, believed
with the writer's confidence (0.9 at most) while the writer shows signs of life, with 0.3 after that, and dropped when
the pod's own stream is sure. They do not become truth even where ``seq`` and ``ts`` prove that the live stream goes on
where the store ends: engines remove blocks by their own hashes, per cache group and medium and as often as they stored
them, and what waits for a parent needs its tokens, so all of that would have to be in the store too, only to save a
replica the time until its stream is sure.

Only this module knows the client library, the extra ``redis``.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections import Counter
from collections.abc import Awaitable, Callable, Sequence
from typing import Any
from uuid import uuid4

import msgspec

from pointsman.clock import Clock
from pointsman.errors import ConfigError
from pointsman.kvcache.kv_index import KVIndex
from pointsman.kvcache.residency import BlockSink
from pointsman.kvcache.shared_keys import RELEASE, REMOVE, SCAN, TAKE, WRITE, Names
from pointsman.kvcache.shared_link import Call, Entry, LinkDownError, Note, Refused
from pointsman.kvcache.shared_reader import Reader
from pointsman.kvcache.shared_writer import Facts, Writer, WriterOptions
from pointsman.kvcache.told import Memory

CALLS = 32
"""Calls packed at once: 1 ms of the event loop."""
CONNECT_S, ANSWER_S = 2.0, 10.0
FOLLOWED = 256
"""Entries of the log taken at once."""


class SharedOptions(msgspec.Struct, frozen=True):
    """Knobs; times in seconds."""

    flush: float = 0.25
    sweep: float = 1.0
    """Between two looks for holders to read."""
    backoff: tuple[float, float] = (0.25, 5.0)
    """After a failed connection: at first, and at most."""
    writer: WriterOptions = WriterOptions()


class SharedStore:
    """Writes and reads the shared index of a scope, on the running event loop.

    Args:
        url: of the server, as :func:`pointsman.kvcache.shared_address.shared_address` gives it.
        scope: name of the pool; stores of other scopes do not meet.
        memory: where what others tell goes.
        facts: what is known of (pod, rank) here.
        clock: time.
        note: told of outages and progress.
        options: knobs.

    Raises:
        ConfigError: if the client library is missing.
    """

    def __init__(
        self,
        url: str,
        scope: str,
        memory: Memory,
        facts: Callable[[str, int], Facts],
        clock: Clock,
        note: Note,
        options: SharedOptions | None = None,
    ) -> None:
        self._options = options or SharedOptions()
        self._link = _RedisLink(url)
        self._clock, self._note = clock, note
        self._counts: Counter[str] = Counter()
        names = Names(scope)
        self._writer = Writer(names, uuid4().hex, facts, clock, self._options.writer)
        self._reader = Reader(names, memory, clock, self._options.writer.keep, note)
        self._task: asyncio.Task[None] | None = None
        self.connected = False

    @property
    def counts(self) -> dict[str, int]:
        """What happened, by kind."""
        return {key: n for key, n in (self._counts + self._writer.counts + self._reader.counts).items() if n}

    @property
    def leases(self) -> int:
        """Holders that this replica writes."""
        return self._writer.leases

    def tap(self, pod: str, rank: int, slot: int, index: KVIndex) -> BlockSink:
        """The sink for a view of a pod that is heard here: the index, and what is shared."""
        return self._writer.tap(pod, rank, slot, index)

    def remove(self, pod: str) -> None:
        """A pod is gone for good: its keys are deleted, unless another replica writes it."""
        self._writer.remove(pod)

    def start(self) -> None:
        """Begin; needs a running event loop."""
        self._task = asyncio.get_running_loop().create_task(self._run(), name="shared-index")

    async def stop(self) -> None:
        """Let go of the leases and close. What is stored stays for those who come after."""
        if self._task is not None:
            await _end([self._task], 1.0)
        if self.connected:
            with contextlib.suppress(LinkDownError, TimeoutError):
                async with asyncio.timeout(CONNECT_S):
                    await self._writer.flush(self._link)
                    await self._writer.release(self._link)
        self.connected = False
        await self._link.close()

    async def _run(self) -> None:
        pause, said = self._options.backoff[0], False
        while True:
            try:
                await self._link.open()
                self.connected = True
                self._note("sharing the index", {"again": said})
                pause, said = self._options.backoff[0], False
                await self._share()
            except LinkDownError as error:
                self._offline(str(error), said=said)
            except Exception as error:  # noqa: BLE001 - sharing must come back, whatever it was
                self._counts["failed"] += 1
                self._offline(f"{type(error).__name__}: {error}", said=said)
            said = True
            await asyncio.sleep(pause)
            pause = min(2 * pause, self._options.backoff[1])

    def _offline(self, why: str, *, said: bool) -> None:
        self.connected = False
        self._writer.offline()
        self._reader.offline()
        if not said:
            self._counts["outages"] += 1
            self._note("the index is not shared for now", {"error": why})

    async def _share(self) -> None:
        """Write and read until the connection is gone."""
        tasks = [asyncio.ensure_future(work()) for work in (self._write, self._read)]
        try:
            done, _ = await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
            for task in done:
                task.result()
        finally:
            await _end(tasks, 0.05)

    async def _write(self) -> None:
        while True:
            await self._writer.flush(self._link)
            await asyncio.sleep(self._options.flush)

    async def _read(self) -> None:
        due = self._clock.now()
        while True:
            now = self._clock.now()
            if now >= due:
                await self._reader.sweep(self._link)
                due = self._clock.now() + self._options.sweep
            elif self._reader.following:
                await self._reader.follow(self._link, due - now)
            else:
                await asyncio.sleep(due - now)


async def _end(tasks: Sequence[asyncio.Task[None]], again: float) -> None:
    """Cancel until it has come through: the client loses a cancellation that meets an answer (seen with redis 8.1)."""
    pending = set(tasks)
    while pending:
        for task in pending:
            task.cancel()
        done, pending = await asyncio.wait(pending, timeout=again)
        for task in done:
            task.cancelled() or task.exception()  # looked at, so that nobody warns that it was not


class _RedisLink:
    """A :class:`pointsman.kvcache.shared_link.Link` over the asyncio client."""

    def __init__(self, url: str) -> None:
        try:
            import redis.asyncio as client  # noqa: PLC0415 - an extra
            from redis import backoff, exceptions  # noqa: PLC0415
            from redis.asyncio.retry import Retry  # noqa: PLC0415
        except ImportError as error:
            raise ConfigError(
                "sharing the index needs the client library of Redis", hint="pip install 'pointsman[redis]'"
            ) from error
        self._down = (exceptions.ConnectionError, exceptions.TimeoutError, OSError, TimeoutError, asyncio.TimeoutError)
        self._down_too = (exceptions.NoScriptError, exceptions.ReadOnlyError)
        self._error = exceptions.RedisError
        self._client = client.Redis.from_url(
            url,
            protocol=2,
            socket_connect_timeout=CONNECT_S,
            socket_timeout=ANSWER_S,
            retry=Retry(backoff.NoBackoff(), 0),
        )
        self._digests: dict[str, str] = {}

    async def open(self) -> None:
        """Connect and tell the scripts."""
        for script in (TAKE, RELEASE, WRITE, REMOVE, SCAN):
            self._digests[script] = str(await self._ask(self._client.script_load(script)))

    async def close(self) -> None:
        with contextlib.suppress(*self._down):
            await self._client.aclose()

    async def run(self, calls: Sequence[Call]) -> list[Any]:
        answers: list[Any] = []
        for at in range(0, len(calls), CALLS):
            pipeline = self._client.pipeline(transaction=False)
            for call in calls[at : at + CALLS]:
                pipeline.evalsha(self._digests[call.script], len(call.keys), *call.keys, *call.args)
            answers += await self._ask(pipeline.execute(raise_on_error=False))
        return [self._answer(answer) for answer in answers]

    async def meta(self, keys: Sequence[str], fields: Sequence[str]) -> list[Any]:
        answers: list[Any] = []
        for at in range(0, len(keys), CALLS):
            pipeline = self._client.pipeline(transaction=False)
            for key in keys[at : at + CALLS]:
                pipeline.hmget(key, list(fields))
            answers += await self._ask(pipeline.execute(raise_on_error=False))
        return [self._answer(answer) for answer in answers]

    async def holders(self, key: str) -> list[bytes]:
        found = await self._ask(self._client.zrange(key, 0, -1), [])
        return list(found)

    async def newest(self, log: str) -> bytes:
        found = await self._ask(self._client.xrevrange(log, count=1), [])
        return bytes(found[0][0]) if found else b"0"

    async def follow(self, log: str, after: bytes, wait: float) -> list[Entry]:
        block = max(1, round(wait * 1000))
        found = await self._ask(self._client.xread({log: after}, count=FOLLOWED, block=block), None)
        if found is None:  # no stream: the next rewrite makes it one
            await asyncio.sleep(wait)
        return [(bytes(entry), fields) for _, entries in found or [] for entry, fields in entries]

    def _answer(self, answer: Any) -> Any:
        if isinstance(answer, self._down + self._down_too):
            raise LinkDownError(str(answer)) from answer
        return Refused(str(answer)) if isinstance(answer, Exception) else answer

    async def _ask(self, question: Awaitable[Any], refused: Any = LinkDownError) -> Any:
        """Await an answer; a refusal is the end of the connection unless there is an answer in its place."""
        try:
            return await question
        except self._down as error:
            raise LinkDownError(str(error) or type(error).__name__) from error
        except self._error as error:
            if refused is LinkDownError:
                raise LinkDownError(str(error)) from error
            return refused
