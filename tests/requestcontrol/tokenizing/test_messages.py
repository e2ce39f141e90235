"""What vLLM 0.32 hands to its templates, message by message."""

from __future__ import annotations

from typing import Any

import pytest

from pointsman.requestcontrol.tokenizing.messages import developer_to_system, template_messages, template_tools


def one(message: dict[str, Any]) -> dict[str, Any]:
    return template_messages([message], "string")[0]


def test_parts_join_with_a_line_feed_unless_the_template_walks_over_them() -> None:
    content = ["a", {"type": "input_text", "text": "b", "cache_control": {}}, {"type": "thinking", "thinking": "c"}]
    message = {"role": "user", "content": content}
    assert one(message) == {"role": "user", "content": "a\nb\nc"}
    assert template_messages([message], "parts")[0]["content"] == [
        {"type": "text", "text": "a"},
        {"type": "text", "text": "b", "cache_control": {}},
        {"type": "text", "text": "c"},
    ]
    assert template_messages([{"role": "user", "content": "x"}], "parts")[0]["content"] == [
        {"type": "text", "text": "x"}
    ]
    assert one({"role": "assistant", "content": None})["content"] == ""


@pytest.mark.parametrize(
    ("given", "seen"),
    [
        ('{"a": 1}', {"a": 1}),
        ({"a": 1}, {"a": 1}),
        ("", {}),
        (None, {}),
        ("{broken", {}),
        ("[1]", {}),
    ],
)
def test_arguments_become_objects(given: Any, seen: dict[str, Any]) -> None:
    call = {"id": "c", "type": "function", "function": {"name": "f", "arguments": given}}
    message = one({"role": "assistant", "content": "", "tool_calls": [call]})
    assert message["tool_calls"] == [{"id": "c", "type": "function", "function": {"name": "f", "arguments": seen}}]
    assert call["function"]["arguments"] == given, "the client's message is left alone"  # type: ignore[index]


def test_roles() -> None:
    assert "tool_calls" not in one({"role": "assistant", "content": "x", "tool_calls": []})
    assert one({"role": "assistant", "content": "x", "reasoning": "r"})["reasoning_content"] == "r"
    tool = {"role": "tool", "tool_call_id": "c", "content": [{"type": "text", "text": "1"}, "2"]}
    assert template_messages([tool], "parts") == [{"role": "tool", "tool_call_id": "c", "content": "1\n2"}]
    assert one({"role": "user", "content": "x", "name": "n", "task": 5}) == {
        "role": "user",
        "content": "x",
        "name": "n",
    }


def test_billing_header_goes() -> None:
    parts = [{"type": "text", "text": "x-anthropic-billing-header: cch=1"}, {"type": "text", "text": "rest"}]
    assert one({"role": "system", "content": parts})["content"] == "rest"
    assert one({"role": "system", "content": "x-anthropic-billing-header: 1\nBe"})["content"] == "Be"
    assert one({"role": "user", "content": "x-anthropic-billing-header: 1"})["content"]


def test_tools() -> None:
    function = {"parameters": {"z": 1, "a": 2}, "name": "f", "junk": 1}
    assert template_tools([{"function": function, "type": "function"}]) == [
        {"type": "function", "function": {"name": "f", "description": None, "parameters": {"z": 1, "a": 2}}}
    ]
    assert template_tools([{"function": {"name": "f", "strict": True}, "defer_loading": True}]) == [
        {
            "type": "function",
            "function": {"name": "f", "description": None, "parameters": None, "strict": True, "defer_loading": True},
            "defer_loading": True,
        }
    ]
    assert template_tools(None) is None


def test_developer_becomes_system() -> None:
    system = {"role": "system", "content": "s"}
    developer = {"role": "developer", "content": [{"type": "text", "text": "d"}], "tools": None}
    user = {"role": "user", "content": "u"}
    assert developer_to_system([system, user]) == [system, user]
    assert developer_to_system([developer, user]) == [{"role": "system", "content": developer["content"]}, user]
    assert developer_to_system([user, developer, system]) == [{"role": "system", "content": "d\n\ns"}, user]
