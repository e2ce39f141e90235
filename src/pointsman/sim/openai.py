"""The OpenAI bodies a simulated pod understands, and the ones it answers with, shaped as vLLM shapes them."""

from __future__ import annotations

from array import array
from collections.abc import Iterable, Mapping
from typing import Any, TypeVar

import msgspec

from pointsman.errors import BadRequestError
from pointsman.sim.tokens import VOCABULARY, Message, answer_offset, answer_text, chat_tokens, text_tokens

FINGERPRINT = "vllm-0.32.0-pointsman"
_T = TypeVar("_T", bound=msgspec.Struct)

DONE = b"data: [DONE]\n\n"
DEFAULT_COMPLETION_TOKENS = 16
DEFAULT_CHAT_TOKENS = 128


class StreamOptions(msgspec.Struct):
    """``stream_options``."""

    include_usage: bool = False


class ChatMessage(msgspec.Struct):
    """One message; its content is text or a list of parts, of which only text parts count."""

    role: str = "user"
    content: str | list[dict[str, Any]] | None = None

    def plain(self) -> Message:
        if isinstance(self.content, list):
            return Message(self.role, "\n".join(str(part.get("text", "")) for part in self.content))
        return Message(self.role, self.content or "")


class GenerateBody(msgspec.Struct):
    """What completions, chat completions and tokenize share; fields that mean nothing to a simulation are ignored."""

    model: str | None = None
    prompt: str | list[int] | None = None
    messages: list[ChatMessage] | None = None
    max_tokens: int | None = None
    max_completion_tokens: int | None = None
    stream: bool | None = None
    stream_options: StreamOptions | None = None
    n: int | None = None
    cache_salt: str | None = None
    add_generation_prompt: bool = True
    return_token_strs: bool | None = None


class DetokenizeBody(msgspec.Struct):
    """``POST /detokenize``."""

    tokens: list[int]


class LoraBody(msgspec.Struct):
    """``POST /v1/load_lora_adapter`` and its opposite."""

    lora_name: str
    lora_path: str = ""
    load_inplace: bool = False


class Call(msgspec.Struct, frozen=True):
    """A request to generate, understood."""

    chat: bool
    model: str | None
    tokens: array[int]
    max_tokens: int
    stream: bool
    include_usage: bool
    salt: str


def parse(body: bytes, kind: type[_T]) -> _T:
    """Decode a JSON body.

    Raises:
        BadRequestError: if it is not JSON, or not of this kind.
    """
    try:
        return msgspec.json.decode(body, type=kind)
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise BadRequestError(f"Invalid request body: {error}") from error


def prompt_tokens(body: GenerateBody, *, chat: bool) -> array[int]:
    """Token ids of the body's messages or prompt.

    Raises:
        BadRequestError: if there are none, or an id is no token.
    """
    if chat:
        if not body.messages:
            raise BadRequestError("At least one message is needed. (parameter=messages)")
        messages = (message.plain() for message in body.messages)
        return chat_tokens(messages, add_generation_prompt=body.add_generation_prompt)
    if not body.prompt:
        raise BadRequestError("Either prompt or prompt_embeds must be provided and non-empty. (parameter=prompt)")
    if isinstance(body.prompt, str):
        return text_tokens(body.prompt)
    if min(body.prompt) < 0 or max(body.prompt) >= VOCABULARY:
        raise BadRequestError(f"token ids are 0 to {VOCABULARY - 1}. (parameter=prompt)")
    return array("I", body.prompt)


def parse_call(body: bytes, *, chat: bool) -> Call:
    """Understand the body of a (chat) completion.

    Raises:
        BadRequestError: if that cannot be done, or it asks for more than one answer.
    """
    parsed = parse(body, GenerateBody)
    if parsed.n not in {None, 1}:
        raise BadRequestError("this simulated server gives one answer: n must be 1. (parameter=n)")
    limit = parsed.max_completion_tokens if chat and parsed.max_completion_tokens is not None else parsed.max_tokens
    default = DEFAULT_CHAT_TOKENS if chat else DEFAULT_COMPLETION_TOKENS
    max_tokens = default if limit is None else limit
    if max_tokens < 1:
        raise BadRequestError(f"max_tokens must be at least 1, got {max_tokens}. (parameter=max_tokens)")
    options = parsed.stream_options
    return Call(
        chat=chat,
        model=parsed.model,
        tokens=prompt_tokens(parsed, chat=chat),
        max_tokens=max_tokens,
        stream=bool(parsed.stream),
        include_usage=options is not None and options.include_usage,
        salt=parsed.cache_salt or "",
    )


def error_body(status: int, message: str, *, kind: str = "BadRequestError", param: str | None = None) -> bytes:
    """An error in vLLM's form."""
    return msgspec.json.encode({"error": {"message": message, "type": kind, "param": param, "code": status}})


def models_body(base: str, adapters: Mapping[str, str], max_model_len: int, created: int) -> bytes:
    """``GET /v1/models``: the base model, then its adapters (name to path)."""

    def entry(name: str, root: str, parent: str | None, length: int | None) -> dict[str, object]:
        permission = {
            "id": f"modelperm-{name}",
            "object": "model_permission",
            "created": created,
            "allow_create_engine": False,
            "allow_sampling": True,
            "allow_logprobs": True,
            "allow_search_indices": False,
            "allow_view": True,
            "allow_fine_tuning": False,
            "organization": "*",
            "group": None,
            "is_blocking": False,
        }
        return {
            "id": name,
            "object": "model",
            "created": created,
            "owned_by": "vllm",
            "root": root,
            "parent": parent,
            "max_model_len": length,
            "permission": [permission],
        }

    data = [entry(base, base, None, max_model_len)]
    data += [entry(name, path, base, None) for name, path in adapters.items()]
    return msgspec.json.encode({"object": "list", "data": data})


def orca_header(style: str, waiting: int, kv_usage: float) -> str | None:
    """Value of ``endpoint-load-metrics``, when a request asked for it as TEXT or JSON."""
    if style == "TEXT":
        return f"TEXT named_metrics.num_requests_waiting={waiting:.1f}, named_metrics.kv_cache_usage_perc={kv_usage}"
    if style == "JSON":
        metrics = {"num_requests_waiting": float(waiting), "kv_cache_usage_perc": kv_usage}
        return f"JSON {msgspec.json.encode({'named_metrics': metrics}).decode()}"
    return None


class Answer:
    """Renders one answer, whole or chunk by chunk. Chunks come from prepared bytes: an answer needs no escaping.

    Args:
        call: what was asked.
        answer_id: ``cmpl-...`` or ``chatcmpl-...``.
        model: the name to answer under.
        created: wall time, seconds since 1970.
        block_size: tokens per KV block, for the usage.
    """

    def __init__(self, call: Call, answer_id: str, model: str, created: int, block_size: int) -> None:
        self._call = call
        self._offset = answer_offset(call.tokens)
        self._sent = 0
        self._prompt = len(call.tokens)
        self._cacheable = self._prompt - self._prompt % block_size
        kind = "chat.completion.chunk" if call.chat else "text_completion"
        name = msgspec.json.encode(model).decode()
        quoted_id = msgspec.json.encode(answer_id).decode()
        self._head = f'data: {{"id":{quoted_id},"object":"{kind}","created":{created},"model":{name},"choices":['
        self._identity = {"id": answer_id, "created": created, "model": model}

    def chunks(self, outputs: int, cached: int, finished: str | None) -> bytes:
        """SSE events for the tokens since the last call, up to ``outputs``; with ``finished`` the end of the stream."""
        text = answer_text(self._offset, self._sent, outputs)
        reason = f'"{finished}"' if finished else "null"
        if self._call.chat:
            chunk = self._role() if not self._sent else ""
            stop = ',"stop_reason":null' if finished else ""
            delta = f'{{"index":0,"delta":{{"content":"{text}"}},"logprobs":null,"finish_reason":{reason}{stop}'
            chunk += f'{self._head}{delta},"token_ids":null}}]}}\n\n'
        else:
            choice = f'{{"index":0,"text":"{text}","logprobs":null,"finish_reason":{reason},"stop_reason":null'
            chunk = f'{self._head}{choice},"prompt_token_ids":null,"token_ids":null}}]}}\n\n'
        self._sent = outputs
        if not finished:
            return chunk.encode()
        if self._call.include_usage:
            usage = msgspec.json.encode(self._usage(outputs, cached)).decode()
            chunk += f'{self._head}],"usage":{usage},"system_fingerprint":"{FINGERPRINT}"}}\n\n'
        return chunk.encode() + DONE

    def whole(self, outputs: int, cached: int, finished: str) -> bytes:
        """The body of an answer that is not streamed."""
        text = answer_text(self._offset, 0, outputs)
        choice: dict[str, object] = {"index": 0}
        if self._call.chat:
            choice["message"] = {"role": "assistant", "content": text, "refusal": None, "tool_calls": []}
        else:
            choice["text"] = text
        choice |= {"logprobs": None, "finish_reason": finished, "stop_reason": None, "token_ids": None}
        body = self._identity | {
            "object": "chat.completion" if self._call.chat else "text_completion",
            "choices": [choice],
            "service_tier": None,
            "system_fingerprint": FINGERPRINT,
            "usage": self._usage(outputs, cached),
            "kv_transfer_params": None,
        }
        return msgspec.json.encode(body)

    def _role(self) -> str:
        choice = '{"index":0,"delta":{"role":"assistant","content":""},"logprobs":null,"finish_reason":null}'
        return f'{self._head}{choice}],"prompt_token_ids":null,"prompt_text":null}}\n\n'

    def _usage(self, outputs: int, cached: int) -> dict[str, object]:
        details = {"cached_tokens": cached}
        if self._call.chat:
            details["created_cache_tokens"] = max(0, self._cacheable - cached)
        return {
            "prompt_tokens": self._prompt,
            "total_tokens": self._prompt + outputs,
            "completion_tokens": outputs,
            "prompt_tokens_details": details,
        }


def token_strings(tokens: Iterable[int]) -> list[str]:
    """``token_strs`` of ``POST /tokenize``: ids stand for themselves, as their text is not kept."""
    return [f"<{token}>" for token in tokens]
