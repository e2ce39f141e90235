"""OpenAI bodies → InferenceRequest: chat completions, completions, embeddings, responses.

Only what a decision needs is decoded, strictly; everything else in the body is left to the model server. The prompt's
canonical bytes grow at the end when a conversation goes on, so that prefixes of prompts are prefixes of bytes.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Annotated, Any

import msgspec
from msgspec import Meta

from pointsman.api.request import BYTES_PER_TOKEN, InferenceRequest, RequestHead
from pointsman.errors import BadRequestError

_ROLE_END = b"\x1f"
_MESSAGE_END = b"\x1e"

Model = Annotated[str, Meta(min_length=1)]
Count = Annotated[int, Meta(ge=0, le=2**63 - 1)]


class _Message(msgspec.Struct):
    role: str = ""
    content: str | list[Any] | None = None
    tool_calls: msgspec.Raw = msgspec.Raw()


class _Common(msgspec.Struct, kw_only=True):
    model: Model
    max_tokens: Count | None = None
    stream: bool | None = None
    cache_salt: str | None = None


class _Chat(_Common, kw_only=True):
    messages: Annotated[list[_Message], Meta(min_length=1)]
    max_completion_tokens: Count | None = None
    tools: msgspec.Raw = msgspec.Raw()


class _Completion(_Common, kw_only=True):
    prompt: str | list[Any]


class _Embedding(_Common, kw_only=True):
    input: str | list[Any] = ""


class _Responses(_Common, kw_only=True):
    input: str | list[Any] = ""
    instructions: str | None = None
    max_output_tokens: Count | None = None


def _content(content: str | list[Any] | None) -> bytes:
    if content is None:
        return b""
    return content.encode("utf-8", "surrogatepass") if isinstance(content, str) else msgspec.json.encode(content)


def _parse_chat(body: bytes) -> tuple[_Common, bytes, tuple[int, ...] | None, int | None]:
    chat = _CHAT.decode(body)
    parts = [bytes(chat.tools), _MESSAGE_END] if bytes(chat.tools) not in (b"", b"null", b"[]") else []
    for message in chat.messages:
        parts += (message.role.encode(), _ROLE_END, _content(message.content), bytes(message.tool_calls), _MESSAGE_END)
    return chat, b"".join(parts), None, chat.max_completion_tokens or chat.max_tokens


def _are_tokens(items: list[Any]) -> bool:
    return all(type(item) is int and 0 <= item < 2**32 for item in items)


def _parse_completion(body: bytes) -> tuple[_Common, bytes, tuple[int, ...] | None, int | None]:
    completion = _COMPLETION.decode(body)
    prompt = completion.prompt
    if isinstance(prompt, str):
        return completion, _content(prompt), None, completion.max_tokens
    ids = prompt[0] if len(prompt) == 1 and isinstance(prompt[0], list) else prompt
    if not ids:
        raise BadRequestError("`prompt` is empty")
    if _are_tokens(ids):
        return completion, b"", tuple(ids), completion.max_tokens
    if not all(isinstance(item, str) or (isinstance(item, list) and _are_tokens(item)) for item in prompt):
        raise BadRequestError("`prompt`: expected a string, strings, token ids, or lists of token ids")
    return completion, msgspec.json.encode(prompt), None, completion.max_tokens


def _parse_embedding(body: bytes) -> tuple[_Common, bytes, tuple[int, ...] | None, int | None]:
    embedding = _EMBEDDING.decode(body)
    return embedding, _content(embedding.input), None, 0


def _parse_responses(body: bytes) -> tuple[_Common, bytes, tuple[int, ...] | None, int | None]:
    responses = _RESPONSES.decode(body)
    prompt = _content(responses.instructions) + _MESSAGE_END + _content(responses.input)
    return responses, prompt, None, responses.max_output_tokens or responses.max_tokens


_CHAT = msgspec.json.Decoder(_Chat)
_COMPLETION = msgspec.json.Decoder(_Completion)
_EMBEDDING = msgspec.json.Decoder(_Embedding)
_RESPONSES = msgspec.json.Decoder(_Responses)

_BodyParser = Callable[[bytes], tuple[_Common, bytes, tuple[int, ...] | None, int | None]]

PATHS: dict[str, _BodyParser] = {
    "/chat/completions": _parse_chat,
    "/completions": _parse_completion,
    "/embeddings": _parse_embedding,
    "/responses": _parse_responses,
}
"""Path suffix → parser; the longest matching suffix wins."""


def parser_for(path: str) -> _BodyParser | None:
    """The parser that claims a path, or None."""
    matches = [suffix for suffix in PATHS if path.endswith(suffix)]
    return PATHS[max(matches, key=len)] if matches else None


def parse_request(head: RequestHead, body: bytes, *, request_id: str, arrival: float) -> InferenceRequest:
    """Understand a request.

    Paths that no parser claims and requests without a body pass as they are, without a model or prompt.

    Raises:
        BadRequestError: the body of a known path cannot be understood; the message may go to the client.
    """
    parse = parser_for(head.path) if head.method == "POST" else None
    if parse is None:
        return InferenceRequest(
            id=request_id, model="", path=head.path, headers=head.headers, arrival=arrival, body_bytes=len(body)
        )
    try:
        common, prompt, token_ids, max_tokens = parse(body)
    except msgspec.ValidationError as error:
        raise BadRequestError(_explain(error)) from None
    except UnicodeError:
        raise BadRequestError("the body is no valid JSON: it is not UTF-8") from None
    except msgspec.DecodeError as error:
        raise BadRequestError(f"the body is no valid JSON: {error}") from None
    except RecursionError:
        raise BadRequestError("the body is nested too deeply") from None
    return InferenceRequest(
        id=request_id,
        model=common.model,
        target_model=common.model,
        path=head.path,
        prompt=prompt,
        prompt_tokens=len(token_ids) if token_ids is not None else -(-len(prompt) // BYTES_PER_TOKEN),
        token_ids=token_ids,
        max_tokens=max_tokens,
        stream=bool(common.stream),
        cache_salt=common.cache_salt or "",
        headers=head.headers,
        arrival=arrival,
        body_bytes=len(body),
    )


def _explain(error: msgspec.ValidationError) -> str:
    text = str(error)
    if "`model`" in text and "missing" in text:
        return "model not found in request body"
    if "`$" not in text and "field `" not in text:
        return f"the body: {text}"
    return text.replace(" - at `$.", " at `").replace(" - at `$", " at `body")
