"""Traces in small, one of each format."""

from __future__ import annotations

import json
from pathlib import Path

MOONCAKE = [
    {"timestamp": 0, "input_length": 1100, "output_length": 5, "hash_ids": [0, 1, 2]},
    {"timestamp": 3000, "input_length": 1030, "output_length": 7, "hash_ids": [0, 1, 3]},
    {"timestamp": 6500, "input_length": 512, "output_length": 1, "hash_ids": [4]},
]
QWEN = [
    {"chat_id": 7, "parent_chat_id": -1, "timestamp": 0.5, "input_length": 40, "output_length": 3, "type": "text",
     "turn": 1, "hash_ids": [1, 2, 3]},
    {"chat_id": 9, "parent_chat_id": 7, "timestamp": 4.25, "input_length": 64, "output_length": 4, "type": "text",
     "turn": 2, "hash_ids": [1, 2, 5, 6]},
]  # fmt: skip
AGENTIC = [
    {"session_id": "a", "t": 0.0, "input_length": 140, "output_length": 9, "api_time": 1.5, "think_time": 0.0,
     "block_size": 64, "keep": 0, "new": [1, 2]},
    {"session_id": "b", "t": 0.0, "input_length": 70, "output_length": 2, "api_time": None, "think_time": 0.0,
     "block_size": 64, "keep": 0, "new": [1]},
    {"session_id": "a", "t": 8.0, "input_length": 200, "output_length": 6, "api_time": 1.0, "think_time": 6.5,
     "block_size": 64, "keep": 1, "new": [3, 4]},
]  # fmt: skip
AIPERF = [
    {"session_id": "s", "input_length": 600, "output_length": 10, "hash_ids": [1, 2], "timestamp": 1000},
    {"session_id": "s", "input_length": 50, "output_length": 4, "delay": 2500},
    {"text_input": "What is a pointsman?", "output_length": 8, "timestamp": 0},
]
AZURE = (
    "TIMESTAMP,ContextTokens,GeneratedTokens\r\n"
    "2023-11-16 18:15:46.6805900,374,44\r\n"
    "2023-11-16 18:15:50.9951690,396,109\r\n"
)
BURSTGPT = (
    "Timestamp,Model,Request tokens,Response tokens,Total tokens,Log Type\n"
    "5,ChatGPT,472,18,490,Conversation log\n"
    "45,ChatGPT,1087,0,1087,Conversation log\n"
    "118.5,GPT-4,417,276,693,API log\n"
)


def span(start: float, end: float, **attributes: object) -> dict[str, object]:
    """A span as OTLP's JSON has it; ``__`` in names stands for a dot."""
    kinds = {int: "intValue", str: "stringValue"}
    return {
        "name": "chat m",
        "startTimeUnixNano": str(round(start * 1e9)),
        "endTimeUnixNano": str(round(end * 1e9)),
        "attributes": [
            {"key": key.replace("__", "."), "value": {kinds[type(value)]: str(value)}}
            for key, value in attributes.items()
        ],
    }


def spans(*found: dict[str, object]) -> dict[str, object]:
    """A line of them."""
    return {"resourceSpans": [{"resource": {"attributes": []}, "scopeSpans": [{"scope": {}, "spans": list(found)}]}]}


def chat(start: float, end: float, asked: int, answered: int, **more: object) -> dict[str, object]:
    """A span of an inference."""
    return span(
        start,
        end,
        gen_ai__operation__name="chat",
        gen_ai__usage__input_tokens=asked,
        gen_ai__usage__output_tokens=answered,
        **more,
    )


OTEL = [
    spans(
        chat(1000.0, 1002.0, 300, 20, gen_ai__conversation__id="c"),
        span(1000.0, 1009.0, gen_ai__operation__name="execute_tool"),
    ),
    spans(chat(1005.0, 1006.0, 500, 10, gen_ai__conversation__id="c")),
    spans(chat(1003.0, 1004.0, 100, 5)),
]
JSON = {"mooncake": MOONCAKE, "qwen": QWEN, "agentic": AGENTIC, "aiperf": AIPERF, "otel": OTEL}


def lines_of(rows: object) -> str:
    """JSON lines."""
    assert isinstance(rows, list)
    return "".join(json.dumps(row) + "\n" for row in rows)


CONTENT = {**{name: lines_of(rows) for name, rows in JSON.items()}, "azure": AZURE, "burstgpt": BURSTGPT}


def write(folder: Path, content: str | bytes, name: str = "trace") -> Path:
    """A file."""
    path = folder / name
    path.write_bytes(content.encode() if isinstance(content, str) else content)
    return path
