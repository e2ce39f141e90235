from __future__ import annotations

import pytest
from jinja2 import Environment

from pointsman.requestcontrol.tokenizing.content_format import content_format

LOOP = "{% for m in messages %}"


@pytest.mark.parametrize(
    "text",
    [
        LOOP + "{% for p in m['content'] %}{{ p }}{% endfor %}{% endfor %}",
        LOOP + "{% for p in m.content | list %}{{ p }}{% endfor %}{% endfor %}",
        LOOP + "{% set content = m.content %}{% for p in content %}{{ p }}{% endfor %}{% endfor %}",
        "{% set rest = messages[1:] %}{% for m in rest %}{% for p in m.content %}{% endfor %}{% endfor %}",
        "{% macro show(body) %}{% for p in body %}{% endfor %}{% endmacro %}"
        + LOOP
        + "{{ show(m.content) }}{% endfor %}",
        "{% macro show(b) %}{% for p in b %}{% endfor %}{% endmacro %}" + LOOP + "{{ show(b=m.content) }}{% endfor %}",
    ],
)
def test_walks_over_parts(text: str) -> None:
    assert content_format(Environment(autoescape=True).parse(text)) == "parts"


@pytest.mark.parametrize(
    "text",
    [
        LOOP + "{{ m.content }}{% endfor %}",
        LOOP + "{% for call in m.tool_calls %}{{ call }}{% endfor %}{% endfor %}",
        "{% for t in tools %}{% for p in t.content %}{% endfor %}{% endfor %}",
        "{% macro show(content) %}{% for p in content %}{% endfor %}{% endmacro %}"
        + LOOP
        + "{{ show(m.role) }}{% endfor %}",
        "",
    ],
)
def test_wants_strings(text: str) -> None:
    assert content_format(Environment(autoescape=True).parse(text)) == "string"
