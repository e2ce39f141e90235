"""What an indexer elsewhere is asked and what it answers: bytes, and names of pods to endpoints. No I/O."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated, Any

import msgspec
from msgspec import Meta

from pointsman.api.endpoint import MODEL_LABEL, Endpoint, EndpointId
from pointsman.api.request import InferenceRequest
from pointsman.framework.kv import Held, RemoteMatch
from pointsman.kvcache.query import MAX_NAME

MAX_QUESTION_BYTES = 1024 * 1024
"""A prompt of about 150,000 token ids. Longer ones could hardly be answered within a deadline of milliseconds."""
MAX_ANSWER_BYTES = 4 * 1024 * 1024

_CHAT, _TEXT = "/chat/completions", "/completions"
_Count = Annotated[int, Meta(ge=0, le=2**32 - 1)]


class UnaskableError(Exception):
    """No question can be made of this request."""


class BadAnswerError(Exception):
    """The answer is none."""


class _Tiers(msgspec.Struct):
    gpu: _Count = 0
    cpu: _Count = 0
    disk: _Count = 0


class _Pod(msgspec.Struct):
    matched_tokens: _Count = 0
    block_size: _Count = 0
    confidence: Annotated[float, Meta(ge=0, le=1)] = 0.0
    rank: _Count = 0
    blocks: _Tiers = msgspec.field(default_factory=_Tiers)


class _Answer(msgspec.Struct):
    pods: dict[str, _Pod]
    prompt_tokens: _Count | None = None
    token_ids: list[_Count] | None = None


_ANSWER = msgspec.json.Decoder(_Answer)
_OBJECT = msgspec.json.Decoder(dict[str, msgspec.Raw])


def question(request: InferenceRequest, body: bytes, endpoints: Sequence[Endpoint]) -> bytes:
    """A query's body: token ids where they are known, else the prompt as the client wrote it.

    Raises:
        UnaskableError: the request is too long, or of a kind that an indexer cannot tokenize.
    """
    model, adapter = _served(request, endpoints)
    fields: dict[str, Any] = {"model": model}
    if adapter is not None:
        fields["adapter"] = adapter
    if not 0 < len(model) <= MAX_NAME or len(adapter or "") > MAX_NAME or len(request.cache_salt) > MAX_NAME:
        raise UnaskableError("names no model, or one that is too long")
    if request.cache_salt:
        fields["salt"] = request.cache_salt
    if request.token_ids is not None:
        if len(request.token_ids) > MAX_QUESTION_BYTES // 2:
            raise UnaskableError("too long")
        fields["token_ids"] = list(request.token_ids)
    else:
        fields = _prompt(request.path, body) | fields | {"return_token_ids": True}
    try:
        encoded = msgspec.json.encode(fields)
    except (UnicodeError, msgspec.MsgspecError) as error:
        raise UnaskableError(str(error)) from error
    if len(encoded) > MAX_QUESTION_BYTES:
        raise UnaskableError("too long")
    return encoded


def _prompt(path: str, body: bytes) -> dict[str, Any]:
    """The client's body, without what the other kind of request has its prompt in."""
    other = "prompt" if path.endswith(_CHAT) else "messages"
    if len(body) > MAX_QUESTION_BYTES or not path.endswith(_TEXT):
        raise UnaskableError("too long, or of a kind that is not tokenized")
    try:
        fields: dict[str, Any] = _OBJECT.decode(body)
    except (msgspec.MsgspecError, UnicodeError, RecursionError) as error:
        raise UnaskableError("the body is no JSON object") from error
    return {name: value for name, value in fields.items() if name not in {other, "pods", "adapter", "salt"}}


def _served(request: InferenceRequest, endpoints: Sequence[Endpoint]) -> tuple[str, str | None]:
    """Base model and adapter of a request."""
    name = request.target_model or request.model
    knowing = [endpoint for endpoint in endpoints if endpoint.metrics.lora.knows(name)]
    if name and not knowing:
        return name, None
    bases = (_base(endpoint) for endpoint in knowing or endpoints)
    return next((base for base in bases if base), name), name or None


def _base(endpoint: Endpoint) -> str:
    return endpoint.labels.get(MODEL_LABEL) or min(endpoint.metrics.models, default="")


def read_answer(data: bytes, names: PodNames) -> RemoteMatch:
    """An indexer's answer, by endpoint.

    Raises:
        BadAnswerError: it cannot be understood.
    """
    try:
        answer = _ANSWER.decode(data)
    except (msgspec.MsgspecError, UnicodeError, RecursionError) as error:
        raise BadAnswerError(str(error)) from error
    length = answer.prompt_tokens if answer.token_ids is None else len(answer.token_ids)
    held: dict[EndpointId, Held] = {}
    for name, pod in answer.pods.items():
        endpoint = names.find(name)
        if endpoint is None or not pod.block_size:
            continue
        # Which of its ranks will serve a request, a pod with several does not say.
        sure = 0.0 if pod.rank else pod.confidence
        tokens = _usable(pod, length)
        found = Held(tokens, pod.block_size, sure, _slower(pod, tokens))
        known = held.get(endpoint)
        if known is None or (found.confidence, found.tokens) > (known.confidence, known.tokens):
            held[endpoint] = found
    return RemoteMatch(held, None if answer.token_ids is None else tuple(answer.token_ids))


def _usable(pod: _Pod, length: int | None) -> int:
    """Whole blocks, of which at least one token of the prompt is none, as in the engines."""
    tokens = pod.matched_tokens if length is None else min(pod.matched_tokens, max(0, length - 1))
    return tokens - tokens % pod.block_size


def _slower(pod: _Pod, tokens: int) -> tuple[int, int]:
    """Tokens in CPU memory and on disk, of those that count: what was cut off the end is taken to be the slowest."""
    blocks = tokens // pod.block_size
    cpu = min(pod.blocks.cpu, max(0, blocks - pod.blocks.gpu))
    disk = min(pod.blocks.disk, max(0, blocks - pod.blocks.gpu - cpu))
    return cpu * pod.block_size, disk * pod.block_size


class PodNames:
    """Which endpoint an indexer means by a pod's name: it may have them from a file, from URLs or from topics.

    A name is an endpoint's id, its name alone, its ip:port or its address, in this order; one that several endpoints
    share (the address of two ports) is nobody's. The namespace of an indexer that was given URLs does not count.
    """

    def __init__(self, endpoints: Sequence[Endpoint]) -> None:
        self._places = _own((endpoint, endpoint.hostport) for endpoint in endpoints)
        self._names: dict[str, EndpointId | None] = {}
        for level in (
            _own((endpoint, endpoint.id) for endpoint in endpoints),
            _own((endpoint, endpoint.id.partition("/")[2]) for endpoint in endpoints),
            self._places,
            _own((endpoint, endpoint.address) for endpoint in endpoints),
        ):
            self._names = level | self._names

    def find(self, name: str) -> EndpointId | None:
        """The endpoint, None when it is none of ours."""
        found = self._names.get(name)
        if found is None and "/" in name:
            # default/10.0.0.1:8000, and default/pods.example@10.0.0.1:8000 where a name has several addresses
            found = self._places.get(name.partition("/")[2].rpartition("@")[2])
        return found


def _own(pairs: Any) -> dict[str, EndpointId | None]:
    """Endpoints by name; None where two share it."""
    found: dict[str, EndpointId | None] = {}
    for endpoint, name in pairs:
        found[name] = None if name in found else endpoint.id
    return found
