from __future__ import annotations

from typing import Any

import msgspec
import pytest

from pointsman.requestcontrol.tokenizing.prompts import ChatPrompt, Prompt, TextPrompt, read_prompt, readable

CHAT, TEXT = "/v1/chat/completions", "/v1/completions"
HI: dict[str, Any] = {"messages": [{"role": "user", "content": "hi"}]}


def read(path: str, **body: Any) -> Prompt | None:
    return read_prompt(path, msgspec.json.encode(body))


def test_text() -> None:
    assert read(TEXT, prompt="a b") == TextPrompt("a b", add_special_tokens=True)
    assert read(TEXT, prompt="a b", add_special_tokens=False) == TextPrompt("a b", add_special_tokens=False)
    assert read("/v1/completions/render", prompt="a") == TextPrompt("a")


def test_chat() -> None:
    assert read(CHAT, **HI) == ChatPrompt(HI["messages"], None, {"add_generation_prompt": True})
    assert read("/v1/chat/completions/render", **HI) == read(CHAT, **HI)


def test_chat_options() -> None:
    prompt = read(
        CHAT,
        **HI,
        tools=[],
        chat_template_kwargs={"x": 1, "add_generation_prompt": True},
        continue_final_message=True,
        reasoning_effort="none",
        documents=[{"text": "d"}],
    )
    assert isinstance(prompt, ChatPrompt)
    assert prompt.continue_last
    assert prompt.tools == []
    assert prompt.options == {
        "x": 1,
        "add_generation_prompt": False,
        "reasoning_effort": "none",
        "enable_thinking": False,
        "documents": [{"text": "d"}],
    }


@pytest.mark.parametrize(
    "body",
    [
        {"prompt": ["a", "b"]},
        {"prompt": [1, 2]},
        {"prompt": "a", "truncate_prompt_tokens": 5},
        {"prompt": "a", "prompt_embeds": "AAAA"},
        {},
    ],
)
def test_text_whose_tokens_are_not_its_own(body: dict[str, Any]) -> None:
    assert read(TEXT, **body) is None


@pytest.mark.parametrize(
    "body",
    [
        {"messages": []},
        {"messages": [{"content": "no role"}]},
        {"messages": [{"role": "user", "content": [{"type": "image_url", "image_url": {"url": "u"}}]}]},
        {"messages": [{"role": "user", "content": [{"type": "text", "text": "a", "uuid": "u"}]}]},
        {"messages": [{"role": "user", "content": [{"type": "text"}]}]},
        {"messages": [{"role": "user", "content": 5}]},
        HI | {"chat_template": "{{ 1 }}"},
        HI | {"chat_template_kwargs": {"messages": []}},
        HI | {"truncate_prompt_tokens": 3},
        {},
    ],
)
def test_chat_whose_tokens_are_not_its_texts(body: dict[str, Any]) -> None:
    assert read(CHAT, **body) is None


@pytest.mark.parametrize("body", [b"", b"{", b"\xff", b"[" * 100_000, b'{"messages": 3}', b'{"prompt": "\xff"}'])
@pytest.mark.parametrize("path", [CHAT, TEXT, "/v1/chat/completions/render"])
def test_broken_bodies(path: str, body: bytes) -> None:
    assert read_prompt(path, body) is None


def test_other_paths() -> None:
    assert read("/v1/embeddings", input="x") is None
    assert not readable("/v1/embeddings")
    assert all(map(readable, (CHAT, TEXT, "/v1/completions/render")))
