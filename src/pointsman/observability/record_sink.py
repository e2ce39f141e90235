"""Keeps what a replay needs of each request that ended, in files, without a word of what was said.

The event loop only puts the request on a queue (a microsecond); a thread hashes, encodes and writes. A queue that is
full loses records, never time. Prompts are hashed in blocks with a key that is made at the start and kept nowhere, so
nobody can find out what a prompt was by hashing what it may have been. What does show: which prompts begin alike and
for how long, lengths, times, names of models and pods.
"""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from functools import lru_cache, partial
from hashlib import blake2b
from heapq import nlargest
from secrets import token_bytes, token_hex
from typing import Any

import msgspec

from pointsman.api.endpoint import Endpoint
from pointsman.api.record import DecisionRecord
from pointsman.api.request import BYTES_PER_TOKEN, InferenceRequest
from pointsman.api.result import RequestOutcome
from pointsman.clock import Clock
from pointsman.kvcache.blocks import block_keys, chain_seed, token_block_key_array
from pointsman.observability.record_files import RecordFiles
from pointsman.observability.record_lines import (
    BLOCK_TOKENS,
    VERSION,
    HeadLine,
    PodLine,
    RequestLine,
    ShadowLine,
    pack,
)

BLOCK_BYTES = BLOCK_TOKENS * BYTES_PER_TOKEN
SESSION_HEADERS = ("x-session-id", "session-id")
MAX_WAITING = 4096
"""Requests on the queue."""
MAX_WAITING_BYTES = 64 * 1024 * 1024
"""Of their prompts."""
PERIOD = 0.05
"""Seconds between two looks at the queue: waking the thread for each request would cost the loop 5 µs of its own."""
TOP = 3
_REMEMBERED_HASHES = 65_536
_SCALE = float(1 << 64)

Count = Callable[[str, int], None]
"""Told how many records were ``written``, ``sampled-out``, ``dropped`` (queue full) or ``failed``."""
_ENCODER = msgspec.json.Encoder()


class Hasher:
    """Keyed hashes of 64 bits.

    Args:
        key: secret, 16 to 64 bytes.
    """

    def __init__(self, key: bytes) -> None:
        def digest(data: bytes) -> bytes:
            return blake2b(data, digest_size=8, key=key).digest()

        self.digest = digest
        self._of_key = lru_cache(_REMEMBERED_HASHES)(lambda key: digest(key.to_bytes(8, "little")))

    def text(self, kind: str, value: str) -> str:
        """Hash of a name, 16 hexadecimal digits."""
        return self.digest(f"{kind}:{value}".encode(errors="surrogatepass")).hex()

    def blocks(self, request: InferenceRequest) -> bytes:
        """Hashes of a prompt's full blocks; each depends on all before it, on model and cache salt."""
        ids = request.token_ids
        seed = chain_seed("text" if ids is None else "ids", request.target_model or request.model, request.cache_salt)
        keys: Sequence[int]
        if ids is None:
            keys = block_keys(request.prompt, BLOCK_BYTES, seed)
        else:
            keys = token_block_key_array(ids, BLOCK_TOKENS, seed)
        # The chain is fast but no secret keeper (xxh3), so each key is hashed once more: 0.7 µs, 0.1 when known.
        return b"".join(map(self._of_key, keys))


class RecordSink:
    """Writes records. :meth:`add` belongs to the event loop, all else to whoever owns the sink.

    Args:
        files: makes the files, given what writes their heads.
        clock: the picker's.
        sample: share of sessions (of requests without one: of prompts with the same first block) to keep, 0 to 1.
        count: told of what became of records, from the sink's thread.
        key: secret of the hashes; random when None.
    """

    def __init__(
        self,
        files: Callable[[Callable[[], bytes]], RecordFiles],
        clock: Clock,
        *,
        sample: float = 1.0,
        count: Count = lambda _result, _number: None,
        key: bytes | None = None,
    ) -> None:
        self._hasher = Hasher(key or token_bytes(32))
        self._sample = sample
        self._count = count
        self._began, self._wall = clock.now(), clock.wall()
        self._recording = token_hex(8)
        self._policy, self._config = "", dict[str, Any]()
        self._queue: deque[tuple[RequestOutcome, DecisionRecord]] = deque()
        self._put_bytes = self._taken_bytes = 0  # each written by one thread only
        self._lost = self._lost_told = 0
        self._pods: dict[str, PodLine] = {}
        self._rotate = threading.Event()
        self._stopping = threading.Event()
        self._thread: threading.Thread | None = None
        self._files = files(self._head)

    def add(self, outcome: RequestOutcome, record: DecisionRecord) -> None:
        """A request ended. Never waits."""
        request = outcome.request
        size = len(request.prompt) + 4 * len(request.token_ids or ())
        if len(self._queue) >= MAX_WAITING or self._put_bytes - self._taken_bytes + size > MAX_WAITING_BYTES:
            self._lost += 1
            return
        self._put_bytes += size
        self._queue.append((outcome, record))

    def use(self, policy: str, config: Mapping[str, Any]) -> None:
        """Another configuration is in force: a file is of one."""
        self._policy, self._config = policy, dict(config)
        self._rotate.set()

    def start(self) -> None:
        """Begin to write."""
        self._thread = threading.Thread(target=self._run, name="records", daemon=True)
        self._thread.start()

    def stop(self) -> None:
        """Write what waits, and end; blocks for as long as that takes."""
        self._stopping.set()
        if self._thread is not None:
            self._thread.join()
        self._files.close()

    # -- the thread -----------------------------------------------------------------------------------------------

    def _run(self) -> None:
        while not self._stopping.wait(PERIOD):
            self._drain()
        self._drain()

    def _drain(self) -> None:
        self._tell("dropped", self._lost - self._lost_told)
        self._lost_told = self._lost
        if self._rotate.is_set():
            self._rotate.clear()
            self._try(self._files.rotate)
            self._pods.clear()
        while self._queue:
            outcome, record = self._queue.popleft()
            self._try(partial(self._keep, outcome, record))
            request = outcome.request
            self._taken_bytes += len(request.prompt) + 4 * len(request.token_ids or ())

    def _try(self, action: Callable[[], None]) -> None:
        try:
            action()
        except Exception:  # noqa: BLE001 - a full disk or a strange request costs a record, not the recording
            self._tell("failed", 1)

    def _tell(self, result: str, number: int) -> None:
        if number:
            self._count(result, number)

    def _keep(self, outcome: RequestOutcome, record: DecisionRecord) -> None:
        request = outcome.request
        if not request.prompt_tokens:
            return  # a GET, or nothing to compute
        blocks = self._hasher.blocks(request)
        session = _session(request)
        if self._sample < 1 and not self._sampled(session, blocks, request):
            self._tell("sampled-out", 1)
            return
        line = _ENCODER.encode(self._line(outcome, record, blocks, session)) + b"\n"
        if self._files.make_room(len(line)):
            self._pods.clear()  # each file names its own
        pod = pod_line(outcome.endpoint)
        if self._pods.get(pod.id) != pod:
            line = _ENCODER.encode(pod) + b"\n" + line
        self._files.write(line)
        self._pods[pod.id] = pod
        self._tell("written", 1)

    def _sampled(self, session: str, blocks: bytes, request: InferenceRequest) -> bool:
        group = session.encode(errors="surrogatepass") or blocks[:8] or request.id.encode(errors="surrogatepass")
        return int.from_bytes(self._hasher.digest(b"sample:" + group), "little") / _SCALE < self._sample

    def _line(self, outcome: RequestOutcome, record: DecisionRecord, blocks: bytes, session: str) -> RequestLine:
        request, usage, shadow = outcome.request, outcome.usage, record.shadow
        models = outcome.endpoint.metrics.models
        name = request.target_model or request.model
        return RequestLine(
            id=self._hasher.text("request", request.id),
            at=round(request.arrival - self._began, 6),
            model=request.model,
            adapter=name if models and name not in models else None,
            prompt_tokens=request.prompt_tokens,
            exact=request.token_ids is not None,
            max_tokens=request.max_tokens,
            blocks=pack(blocks),
            session=self._hasher.text("session", session) if session else "",
            priority=request.priority,
            pod=record.chosen,
            served=outcome.endpoint.id if outcome.endpoint.id != record.chosen else None,
            profile=record.profile,
            unit=record.unit,
            fallback=record.fallback,
            scores=_best(record),
            predicted_cached=record.predicted_cached_tokens,
            scheduling_ms=round(record.scheduling_ms, 3),
            cause=outcome.cause,
            status=outcome.status,
            ttft_ms=_rounded(outcome.ttft_ms),
            total_ms=round(outcome.total_ms, 3),
            output_tokens=usage.output_tokens,
            cached_tokens=usage.cached_tokens,
            engine_prompt_tokens=usage.prompt_tokens,
            shadow=ShadowLine(pod=shadow.chosen, gain=round(shadow.gain, 4), reason=shadow.reason) if shadow else None,
        )

    def _head(self) -> bytes:
        head = HeadLine(
            version=VERSION,
            recording=self._recording,
            started=self._wall,
            block_tokens=BLOCK_TOKENS,
            block_bytes=BLOCK_BYTES,
            sample=self._sample,
            policy=self._policy,
            config=self._config,
        )
        return _ENCODER.encode(head) + b"\n"


def pod_line(endpoint: Endpoint) -> PodLine:
    """What is kept of an endpoint."""
    metrics = endpoint.metrics
    return PodLine(
        id=endpoint.id,
        engine=metrics.engine,
        block_size=metrics.block_size,
        num_blocks=metrics.num_blocks,
        max_num_seqs=metrics.max_num_seqs,
    )


def _session(request: InferenceRequest) -> str:
    headers = request.headers
    return next((headers[name] for name in SESSION_HEADERS if headers.get(name)), "")


def _best(record: DecisionRecord) -> list[tuple[str, float]]:
    if record.result is None:
        return []
    candidates = record.result.profiles[record.result.primary].candidates
    best = nlargest(TOP, candidates, key=lambda scored: scored.score)
    return [(scored.endpoint.id, round(scored.score, 4)) for scored in best]


def _rounded(value: float | None) -> float | None:
    return None if value is None else round(value, 3)
