"""What the index's service says of itself: OpenAPI 3.1, and a page for people."""

from __future__ import annotations

from typing import Any

from pointsman import __version__
from pointsman.kvcache.query import MAX_BLOCK_SIZE, MAX_HASHES, MAX_NAME, MAX_PODS, MAX_TOKENS


def _ref(name: str) -> dict[str, str]:
    return {"$ref": f"#/components/schemas/{name}"}


def _json(schema: dict[str, Any]) -> dict[str, Any]:
    return {"application/json": {"schema": schema}}


def _answers(
    text: str, content: dict[str, Any], *, refusals: bool = False, more: dict[str, str] | None = None
) -> dict[str, Any]:
    answers: dict[str, Any] = {"200": {"description": text, "content": content}}
    if refusals:
        answers["400"] = {"description": "Not understood; nothing was changed.", "content": _json(_ref("Refusal"))}
        answers["413"] = {"description": "The body is too large.", "content": _json(_ref("Refusal"))}
    for status, why in (more or {}).items():
        answers[status] = {"description": why, "content": _json(_ref("Refusal"))}
    return answers


def _get(summary: str, content: dict[str, Any]) -> dict[str, Any]:
    return {"get": {"summary": summary, "responses": _answers(summary, content)}}


_NAME = {"type": "string", "minLength": 1, "maxLength": MAX_NAME}
_PODS = {"type": "array", "items": _NAME, "maxItems": MAX_PODS, "description": "Left out: all that are known."}
_COUNT = {"type": "integer", "minimum": 0}
_SHARE = {"type": "number", "minimum": 0, "maximum": 1}
_BLOCK_SIZE = {"type": "integer", "minimum": 1, "maximum": MAX_BLOCK_SIZE, "description": "Blocks to answer in."}
_KEY = {
    "oneOf": [
        {"type": "integer", "minimum": 0, "maximum": 2**64 - 1},
        {"type": "string", "pattern": "^(0[xX])?[0-9a-fA-F]{1,16}$"},
    ]
}
_HASH = {"type": ["integer", "string"], "description": "The engine's own; text is hexadecimal."}

_MESSAGE = {"type": "object", "required": ["role"], "properties": {"role": {"type": "string"}}}
_PROMPT_FIELDS: dict[str, Any] = {
    "model": _NAME,
    "adapter": _NAME,
    "salt": _NAME,
    "cache_salt": {"type": "string", "description": "As salt, under the name that requests have for it."},
    "pods": _PODS,
    "block_size": _BLOCK_SIZE,
    "return_token_ids": {"type": "boolean", "default": False},
    "add_special_tokens": {"type": "boolean"},
}


def _prompt_query(kind: str, fields: dict[str, Any]) -> dict[str, Any]:
    """A query that holds a prompt; whatever else a client's request may hold is ignored, as by engines."""
    return {
        "type": "object",
        "required": ["model", kind],
        "description": "May be the body of a request as a client wrote it. Needs --tokenizer or --tokenize-url.",
        "properties": _PROMPT_FIELDS | fields,
    }


_SCHEMAS: dict[str, Any] = {
    "KeyQuery": {
        "type": "object",
        "required": ["prompt_hash"],
        "additionalProperties": False,
        "properties": {
            "prompt_hash": {"type": "array", "items": _KEY, "maxItems": MAX_HASHES, "description": "Our block keys."},
            "model": _NAME,
            "pods": _PODS,
            "block_size": _BLOCK_SIZE,
        },
    },
    "TokenQuery": {
        "type": "object",
        "required": ["model", "token_ids"],
        "additionalProperties": False,
        "properties": {
            "model": _NAME,
            "token_ids": {
                "type": "array",
                "items": {"type": "integer", "minimum": 0, "maximum": 2**32 - 1},
                "maxItems": MAX_TOKENS,
            },
            "adapter": _NAME,
            "salt": _NAME,
            "pods": _PODS,
            "block_size": _BLOCK_SIZE,
        },
    },
    "PromptQuery": _prompt_query(
        "prompt",
        {
            "prompt": {
                "oneOf": [{"type": "string", "minLength": 1}, {"type": "array", "items": {"type": "integer"}}],
                "description": "Text, or token ids, which need no tokenizer.",
            }
        },
    ),
    "ChatQuery": _prompt_query(
        "messages",
        {
            "messages": {"type": "array", "items": _MESSAGE, "minItems": 1},
            "tools": {"type": "array", "items": {"type": "object"}},
            "documents": {"type": "array", "items": {"type": "object"}},
            "chat_template_kwargs": {"type": "object"},
            "reasoning_effort": {"type": "string"},
            "add_generation_prompt": {"type": "boolean", "default": True},
            "continue_final_message": {"type": "boolean", "default": False},
        },
    ),
    "PodAnswer": {
        "type": "object",
        "properties": {
            "hit_rate": {**_SHARE, "description": "Share of the prompt's whole blocks."},
            "matched_blocks": _COUNT,
            "total_blocks": _COUNT,
            "matched_tokens": _COUNT,
            "block_size": _COUNT,
            "blocks": {"type": "object", "properties": {"gpu": _COUNT, "cpu": _COUNT, "disk": _COUNT}},
            "confidence": {**_SHARE, "description": "0 for pods that are not known or not heard."},
            "rank": {**_COUNT, "description": "Data-parallel rank that holds most."},
        },
    },
    "QueryAnswer": {
        "type": "object",
        "properties": {
            "pods": {"type": "object", "additionalProperties": _ref("PodAnswer")},
            "prompt_tokens": {**_COUNT, "description": "Tokens of the prompt; not with prompt_hash."},
            "token_ids": {"type": "array", "items": _COUNT, "description": "Only when asked for."},
        },
    },
    "Event": {
        "type": "object",
        "required": ["type"],
        "properties": {
            "type": {"enum": ["block_created", "block_evicted", "block_offloaded"]},
            "block_hashes": {"type": "array", "items": _HASH},
            "block_hash": _HASH,
            "parent_block_hash": _HASH,
            "token_ids": {"type": "array", "items": {"type": "integer", "minimum": 0}},
            "block_size": _COUNT,
            "medium": {"type": "string"},
            "lora_name": {"type": "string"},
            "cache_salt": {"type": "string"},
        },
    },
    "EventsAnswer": {
        "type": "object",
        "properties": {"applied": _COUNT, "skipped": {"type": "object", "additionalProperties": _COUNT}},
    },
    "Refusal": {
        "type": "object",
        "properties": {"error": {"type": "string"}, "field": {"type": "string", "description": "Where it is wrong."}},
    },
}

_EVENTS = {"oneOf": [_ref("Event"), {"type": "array", "items": _ref("Event")}]}
_PARAMETERS = [
    {"name": "pod", "in": "query", "required": True, "schema": _NAME},
    {"name": "model", "in": "query", "schema": _NAME},
]

OPENAPI: dict[str, Any] = {
    "openapi": "3.1.0",
    "info": {
        "title": "Pointsman KV-cache indexer",
        "version": __version__,
        "description": "Which pod holds how much of a prompt in its KV cache, and how sure that is.",
    },
    "paths": {
        "/query": {
            "post": {
                "summary": "How much of a prompt each pod holds.",
                "requestBody": {
                    "required": True,
                    "content": _json({"anyOf": [_ref(f"{kind}Query") for kind in ("Key", "Token", "Prompt", "Chat")]}),
                },
                "responses": _answers(
                    "By pod.",
                    _json(_ref("QueryAnswer")),
                    refusals=True,
                    more={
                        "422": "A prompt, and nobody here can tokenize.",
                        "503": "The prompt's tokens cannot be had in time; the reason is told.",
                    },
                ),
            }
        },
        "/events": {
            "post": {
                "summary": "Events of an engine that has no event stream of its own.",
                "parameters": _PARAMETERS,
                "requestBody": {"required": True, "content": _json(_EVENTS)},
                "responses": _answers("Counts.", _json(_ref("EventsAnswer")), refusals=True),
            }
        },
        "/pods": _get("What is held and known of each pod.", _json({"type": "object"})),
        "/stats": _get("Size and use of the index, and how each event stream is.", _json({"type": "object"})),
        "/metrics": _get("Metrics for Prometheus.", {"text/plain": {"schema": {"type": "string"}}}),
        "/healthz": _get("Whether the process serves.", {"text/plain": {"schema": {"type": "string"}}}),
        "/openapi.json": _get("This description.", _json({"type": "object"})),
    },
    "components": {"schemas": _SCHEMAS},
}


def _rows() -> str:
    rows = []
    for path, methods in OPENAPI["paths"].items():
        for method, operation in methods.items():
            shown = f'<a href="{path}">{path}</a>' if method == "get" else path
            rows.append(f"<tr><td>{method.upper()}<td>{shown}<td>{operation['summary']}")
    return "\n".join(rows)


PAGE = f"""<!doctype html>
<html lang="en"><meta charset="utf-8"><title>KV-cache indexer</title>
<style>body{{font:16px/1.5 system-ui;max-width:50em;margin:2em auto;padding:0 1em}}td{{padding:.2em 1em .2em 0}}
pre{{background:#f4f4f4;padding:1em;overflow:auto}}</style>
<h1>KV-cache indexer</h1>
<p>Pointsman {__version__}: {OPENAPI["info"]["description"]}</p>
<table>
{_rows()}
</table>
<pre>POST /query
{{"model": "my-model", "token_ids": [1, 2, 3], "pods": ["default/pod-a"]}}

POST /query
{{"model": "my-model", "messages": [{{"role": "user", "content": "Hello"}}], "pods": ["default/pod-a"]}}

POST /query
{{"prompt_hash": ["9f86d081884c7d65", 1234], "pods": ["default/pod-a"]}}</pre>
</html>
"""
