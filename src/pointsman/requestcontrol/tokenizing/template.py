"""Chat templates: conversation to text, as transformers renders them.

Templates come with model folders, from strangers, so they run in jinja2's immutable sandbox. What a template cannot
render (it may refuse a conversation) is a :class:`TemplateError`.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from copy import deepcopy
from datetime import datetime
from pathlib import Path
from typing import Any

import jinja2
from jinja2 import nodes
from jinja2.ext import Extension, loopcontrols
from jinja2.parser import Parser
from jinja2.sandbox import ImmutableSandboxedEnvironment

from pointsman.requestcontrol.tokenizing.content_format import content_format
from pointsman.requestcontrol.tokenizing.messages import developer_to_system, template_messages, template_tools
from pointsman.requestcontrol.tokenizing.prompts import ChatPrompt

_OPEN_END = "CONTINUE_FINAL_MESSAGE_TAG "


class TemplateError(Exception):
    """A template is missing or broken, or refuses the conversation."""


class _Generation(Extension):
    """``{% generation %}`` marks the model's own words for training; here they are just rendered."""

    tags = {"generation"}  # noqa: RUF012 - jinja2 declares it so

    def parse(self, parser: Parser) -> list[nodes.Node]:
        next(parser.stream)
        return parser.parse_statements(("name:endgeneration",), drop_needle=True)


class ChatTemplate:
    """A model's chat template, or its several templates by name (``default``, ``tool_use``)."""

    def __init__(
        self,
        sources: Mapping[str, str],
        special_tokens: Mapping[str, Any],
        now: Callable[[], datetime] = datetime.now,
    ) -> None:
        """Compile.

        Args:
            sources: template texts by name.
            special_tokens: what templates see as ``bos_token``, ``eos_token`` and so on.
            now: for templates that write today's date.

        Raises:
            TemplateError: if a template is no valid jinja2, or there is none by the name of ``default``.
        """
        if not sources.keys() & {"default", "tool_use"}:
            raise TemplateError(f"none of the chat templates is the default one: {', '.join(sorted(sources))}")
        self._environment = _environment(now)
        self._special = dict(special_tokens)
        self.text = "\n".join(sources.values())
        try:
            self._templates = {name: _Compiled(self._environment, source) for name, source in sources.items()}
        except jinja2.TemplateError as error:
            raise TemplateError(f"the chat template is no valid jinja2: {error}") from error

    def render(self, prompt: ChatPrompt) -> str:
        """The text of a conversation.

        Raises:
            TemplateError: if the template refuses it.
        """
        compiled = self._templates.get("tool_use") if prompt.tools is not None else None
        compiled = compiled or self._templates.get("default") or self._templates["tool_use"]
        try:
            messages = template_messages(prompt.messages, compiled.format)
            if not compiled.knows_developer:
                messages = developer_to_system(messages)
            if prompt.continue_last:
                messages[-1] = _left_open(messages[-1])
            values = self._special | prompt.options
            text = compiled.template.render(messages=messages, tools=template_tools(prompt.tools), **values)
        except Exception as error:
            raise TemplateError(f"the chat template cannot render this: {error}") from error
        return _cut_open_end(text) if prompt.continue_last else text


class _Compiled:
    def __init__(self, environment: jinja2.Environment, source: str) -> None:
        self.format = content_format(environment.parse(source))
        self.template = environment.from_string(source)
        self.knows_developer = '"developer"' in source or "'developer'" in source


def find_templates(folder: Path, config: Mapping[str, Any]) -> dict[str, str]:
    """The template texts of a model folder by name, empty when it has none.

    A file of its own wins over ``tokenizer_config.json`` (``config``), as in transformers.

    Raises:
        OSError, ValueError: if a file cannot be read.
    """
    found: dict[str, str] = {}
    if (legacy := folder / "chat_template.json").is_file():
        found = _named(json.loads(legacy.read_bytes()).get("chat_template"))
    elif not (folder / "chat_template.jinja").is_file():
        found = _named(config.get("chat_template"))
    if (file := folder / "chat_template.jinja").is_file():
        found = {"default": file.read_text("utf-8")}
    for file in sorted(folder.glob("additional_chat_templates/*.jinja")):
        found[file.stem] = file.read_text("utf-8")
    return found


def special_tokens(*configs: Mapping[str, Any]) -> dict[str, Any]:
    """Special tokens by name as templates see them, from ``tokenizer_config.json`` and ``special_tokens_map.json``."""
    found: dict[str, Any] = {}
    for config in configs:
        for key, value in config.items():
            text = value.get("content") if isinstance(value, dict) else value
            if key.endswith("_token") and isinstance(text, str):
                found[key] = text
    return found


def _named(given: Any) -> dict[str, str]:
    if isinstance(given, str):
        return {"default": given}
    if isinstance(given, dict):
        return {name: text for name, text in given.items() if isinstance(text, str)}
    if isinstance(given, list):
        return {entry["name"]: entry["template"] for entry in given}
    return {}


def _environment(now: Callable[[], datetime]) -> ImmutableSandboxedEnvironment:
    environment = ImmutableSandboxedEnvironment(
        trim_blocks=True, lstrip_blocks=True, extensions=[_Generation, loopcontrols]
    )
    environment.filters["tojson"] = _tojson
    environment.globals["raise_exception"] = _refuse
    environment.globals["strftime_now"] = lambda form: now().strftime(form)
    return environment


def _tojson(
    value: Any,
    ensure_ascii: bool = False,
    indent: int | None = None,
    separators: tuple[str, str] | None = None,
    sort_keys: bool = False,
) -> str:
    # jinja2's own filter would escape <, > and & for HTML.
    return json.dumps(value, ensure_ascii=ensure_ascii, indent=indent, separators=separators, sort_keys=sort_keys)


def _refuse(message: str) -> None:
    raise jinja2.TemplateError(message)


def _left_open(message: dict[str, Any]) -> dict[str, Any]:
    message = deepcopy(message)
    content = message["content"]
    if isinstance(content, str):
        message["content"] = content + _OPEN_END
    else:
        content[-1]["text"] += _OPEN_END
    return message


def _cut_open_end(text: str) -> str:
    at = text.rfind(_OPEN_END.strip())
    if at < 0:
        raise TemplateError("the chat template leaves out the message that is to be continued")
    # A template that trims messages took the tag's blank away: then blanks before the tag go too.
    return text[:at] if text.startswith(_OPEN_END, at) else text[:at].rstrip()
