"""Messages the way vLLM hands them to a chat template, which is not the way clients write them.

Checked against vLLM 0.32: content becomes one string, or a list of parts when the template walks over parts; arguments
of tool calls become objects; empty lists of tool calls go; tools lose fields that are none of OpenAI's.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any, Literal, TypeAlias

from pointsman.requestcontrol.tokenizing.prompts import part_text

ContentFormat: TypeAlias = Literal["string", "parts"]

_BILLING_HEADER = "x-anthropic-billing-header"
"""Claude Code's attribution line, different in every request: vLLM drops it from system messages."""


def template_messages(messages: Sequence[dict[str, Any]], content_format: ContentFormat) -> list[dict[str, Any]]:
    """Messages for a template; the ones given are left as they are."""
    return [_message(message, content_format) for message in messages]


def template_tools(tools: Sequence[dict[str, Any]] | None) -> list[dict[str, Any]] | None:
    """Tools for a template: vLLM's fields in vLLM's order, because templates write them as JSON."""
    return None if tools is None else [_tool(tool) for tool in tools]


def developer_to_system(messages: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """For templates that know no developer: its messages join the system's, in one at the beginning."""
    if not any(message["role"] == "developer" for message in messages):
        return messages
    renamed = [
        {key: value for key, value in message.items() if key != "tools"} | {"role": "system"}
        if message["role"] == "developer"
        else message
        for message in messages
    ]
    system = [index for index, message in enumerate(renamed) if message["role"] == "system"]
    if system == [0]:
        return renamed
    texts = [_joined(renamed[index].get("content")) for index in system]
    merged = {"role": "system", "content": "\n\n".join(text for text in texts if text)}
    return [merged, *(message for message in renamed if message["role"] != "system")]


def _message(message: dict[str, Any], content_format: ContentFormat) -> dict[str, Any]:
    role = message["role"]
    parts = _parts(message.get("content"))
    if role == "system":
        parts = [part for part in map(_without_billing, parts) if part is not None]
    content: Any = parts if content_format == "parts" else "\n".join(part["text"] for part in parts)
    seen: dict[str, Any] = {"role": role, "content": content}
    if role == "assistant":
        if calls := message.get("tool_calls"):
            seen["tool_calls"] = [_call(call) for call in calls]
        if (reasoning := message.get("reasoning")) is not None:
            seen["reasoning"] = seen["reasoning_content"] = reasoning
    elif role == "tool":
        if "tool_call_id" in message:
            seen["tool_call_id"] = message["tool_call_id"]
        seen["content"] = "\n".join(part["text"] for part in parts)
    for key in ("name", "task"):
        if isinstance(message.get(key), str):
            seen[key] = message[key]
    if role == "developer":
        seen["tools"] = message.get("tools")
    return seen


def _parts(content: str | list[Any] | None) -> list[dict[str, Any]]:
    if content is None:
        return []
    if isinstance(content, str):
        return [{"type": "text", "text": content}]
    return [{"type": "text", "text": part} if isinstance(part, str) else _text_part(part) for part in content]


def _text_part(part: dict[str, Any]) -> dict[str, Any]:
    extra = {key: value for key, value in part.items() if key not in {"type", "text", part["type"]}}
    return {"type": "text", "text": part_text(part), **extra}


def _without_billing(part: dict[str, Any]) -> dict[str, Any] | None:
    text = part["text"]
    if not text.startswith(_BILLING_HEADER):
        return part
    rest = text.partition("\n")[2]
    return {**part, "text": rest} if rest else None


def _call(call: dict[str, Any]) -> dict[str, Any]:
    function = call["function"]
    return {**call, "function": {**function, "arguments": _arguments(function.get("arguments"))}}


def _arguments(given: Any) -> dict[str, Any]:
    """Arguments as an object: what is none, or no JSON, becomes an empty one."""
    if isinstance(given, str) and given:
        try:
            given = json.loads(given)
        except ValueError:
            return {}
    return given if isinstance(given, dict) else {}


def _tool(tool: dict[str, Any]) -> dict[str, Any]:
    function = tool["function"]
    later = function.get("defer_loading", tool.get("defer_loading"))
    seen: dict[str, Any] = {key: function.get(key) for key in ("name", "description", "parameters")}
    if function.get("strict") is not None:
        seen["strict"] = function["strict"]
    if later is not None:
        seen["defer_loading"] = later
    outer = {} if tool.get("defer_loading") is None else {"defer_loading": tool["defer_loading"]}
    return {"type": "function", "function": seen, **outer}


def _joined(content: Any) -> str:
    if isinstance(content, list):
        return "\n".join(part["text"] for part in content)
    return content or ""
