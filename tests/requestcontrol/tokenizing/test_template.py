from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import msgspec
import pytest

from pointsman.requestcontrol.tokenizing.prompts import ChatPrompt
from pointsman.requestcontrol.tokenizing.template import ChatTemplate, TemplateError, find_templates, special_tokens

HI = [{"role": "user", "content": "hi "}]
LOOP = "{% for m in messages %}[{{ m.role }}]{{ m.content }}{% endfor %}"


def render(source: str, messages: list[dict[str, Any]] = HI, **fields: Any) -> str:
    special = {"bos_token": "<s>"}
    template = ChatTemplate({"default": source}, special, now=lambda: datetime(2026, 11, 22, tzinfo=UTC))
    return template.render(ChatPrompt(messages, **fields))


def test_what_templates_find() -> None:
    assert render("{{ bos_token }}" + LOOP) == "<s>[user]hi "
    assert render("  {% if true %}\nx\n  {% endif %}\ny") == "x\ny", "blocks are trimmed"
    assert render("{{ tools | tojson }}", tools=[{"function": {"name": "<é>"}}]) == (
        '[{"type": "function", "function": {"name": "<é>", "description": null, "parameters": null}}]'
    )
    assert render("{{ {'b': 1, 'a': 2} | tojson(sort_keys=true, indent=1) }}") == '{\n "a": 2,\n "b": 1\n}'
    assert render("{{ strftime_now('%d %b %Y') }}") == "22 Nov 2026"
    assert render("{% for i in [1, 2, 3] %}{% if i == 2 %}{% break %}{% endif %}{{ i }}{% endfor %}") == "1"
    assert render("{% generation %}a{% endgeneration %}") == "a"
    assert render("{{ enable_thinking }}|{{ nothing }}", options={"enable_thinking": False}) == "False|"
    assert render("{{ tools is none }}") == "True"


@pytest.mark.parametrize(
    ("source", "messages", "text"),
    [
        (LOOP + "</s>", [*HI, {"role": "assistant", "content": "The "}], "[user]hi [assistant]The "),
        ("{% for m in messages %}{{ m.content | trim }};{% endfor %}", [{"role": "user", "content": " a  "}], "a"),
        ("{% for m in messages %}{% for p in m.content %}{{ p.text }}{% endfor %};{% endfor %}", HI, "hi "),
    ],
)
def test_last_message_left_open(source: str, messages: list[dict[str, Any]], text: str) -> None:
    assert render(source, messages, continue_last=True) == text


@pytest.mark.parametrize(
    "source",
    [
        "{{ raise_exception('roles must alternate') }}",
        "{{ messages.append(1) }}",
        "{{ ''.__class__.__mro__ }}",
        "{{ 1 / 0 }}",
        "{{ messages[9].content.x }}",
    ],
)
def test_refusals(source: str) -> None:
    with pytest.raises(TemplateError, match="cannot render"):
        render(source)


def test_a_message_that_is_not_written_cannot_be_continued() -> None:
    with pytest.raises(TemplateError, match="leaves out"):
        render("x", continue_last=True)


def test_broken_templates() -> None:
    with pytest.raises(TemplateError, match="no valid jinja2"):
        render("{% for %}")
    with pytest.raises(TemplateError, match="default"):
        ChatTemplate({"rag": "x"}, {})


def test_developer() -> None:
    messages = [{"role": "developer", "content": "d"}]
    assert render(LOOP, messages) == "[system]d"
    assert render(LOOP + "{# 'developer' #}", messages) == "[developer]d"


def test_tools_have_a_template_of_their_own() -> None:
    template = ChatTemplate({"default": "plain", "tool_use": "tools"}, {})
    assert template.render(ChatPrompt(HI)) == "plain"
    assert template.render(ChatPrompt(HI, tools=[])) == "tools"
    assert ChatTemplate({"tool_use": "tools"}, {}).render(ChatPrompt(HI)) == "tools"


def test_finds_templates(tmp_path: Path) -> None:
    assert find_templates(tmp_path, {}) == {}
    named = [{"name": "default", "template": "c"}, {"name": "rag", "template": "r"}]
    assert find_templates(tmp_path, {"chat_template": named}) == {"default": "c", "rag": "r"}
    assert find_templates(tmp_path, {"chat_template": "c"}) == {"default": "c"}
    (tmp_path / "chat_template.json").write_bytes(msgspec.json.encode({"chat_template": {"default": "j", "x": 5}}))
    assert find_templates(tmp_path, {"chat_template": "c"}) == {"default": "j"}
    (tmp_path / "chat_template.jinja").write_text("file")
    (tmp_path / "additional_chat_templates").mkdir()
    (tmp_path / "additional_chat_templates" / "tool_use.jinja").write_text("t")
    assert find_templates(tmp_path, {"chat_template": "c"}) == {"default": "file", "tool_use": "t"}


def test_special_tokens() -> None:
    first = {"bos_token": "<a>", "pad_token": None, "add_bos_token": True, "model_max_length": 5}
    assert special_tokens(first, {"bos_token": {"content": "<s>", "lstrip": False}, "eos_token": "</s>"}) == {
        "bos_token": "<s>",
        "eos_token": "</s>",
    }
