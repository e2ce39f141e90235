from __future__ import annotations

import json
from collections.abc import Mapping
from enum import Enum
from typing import Annotated, Any, Literal

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pointsman.errors import ConfigError
from pointsman.framework import yaml_lines
from pointsman.framework.yaml_errors import did_you_mean, format_path
from pointsman.framework.yaml_lines import convert, load_yaml


class Colour(Enum):
    RED = "red"
    GREEN = "green"


class Part(msgspec.Struct, frozen=True, forbid_unknown_fields=True, rename="camel"):
    my_name: str
    port: Annotated[int, msgspec.Meta(ge=1, le=65535)] = 1
    labels: Mapping[str, str] = {}
    numbers: dict[str, list[int]] = {}
    kind: Literal["alpha", "beta"] = "alpha"
    colour: Colour = Colour.RED

    def __post_init__(self) -> None:
        if self.my_name == "forbidden":
            raise ValueError("My own words - at `home`")


class Whole(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    parts: list[Part]
    extra: Part | None = None


GOOD = """\
# a comment
parts:
  - myName: one
    port: 8000
    labels: {a: "1",
      llm-d.ai/role: decode}
  - {myName: two, numbers: {x: [1, 2]}}
extra:
  myName: three
"""


class TestLoad:
    def test_data_and_lines(self) -> None:
        document = load_yaml(GOOD, "f.yaml")
        assert document.data["parts"][0]["labels"] == {"a": "1", "llm-d.ai/role": "decode"}
        assert document.line(()) == 2
        assert document.line(("parts",)) == 2
        assert document.line(("parts", 0)) == 3
        assert document.line(("parts", 0, "labels", "llm-d.ai/role")) == 6
        assert document.line(("parts", 1, "numbers", "x", 1)) == 7
        assert document.line(("parts", 0, "nothing", 7)) == 3, "the deepest part that exists"
        assert document.line(("parts", 9)) == 2
        assert document.line(("extra", "myName", "deeper")) == 9

    def test_empty(self) -> None:
        for text in ("", "# only a comment\n", "---\n"):
            document = load_yaml(text, "f")
            assert document.data is None
            with pytest.raises(ConfigError, match="empty"):
                convert(document, Whole)
        assert load_yaml("", "f").line(("a",)) is None

    @pytest.mark.parametrize(
        ("text", "value"),
        [
            ("2024-01-01", "2024-01-01"),
            ("=", "="),
            ("yes", True),
            ("~", None),
            ("0x10", 16),
            ("1e3", "1e3"),
            ("1.5", 1.5),
            ("'8'", "8"),
            ("|\n  text\n", "text\n"),
        ],
    )
    def test_scalars(self, text: str, value: Any) -> None:
        assert load_yaml(f"a: {text}", "f").data == {"a": value}

    def test_merge_keys(self) -> None:
        document = load_yaml("base: &b {x: 1, y: 2}\nover: {y: 0}\nuse:\n  <<: [*b, {z: 9, x: 5}]\n  y: 3\n", "f")
        assert document.data["use"] == {"x": 1, "y": 3, "z": 9}
        assert document.line(("use", "y")) == 5
        assert document.line(("use", "x")) == 1

    @pytest.mark.parametrize(
        ("text", "line", "words"),
        [
            ("a: b: c", 1, "mapping values are not allowed"),
            ("a: 1\nb: [1, 2\nc: 3\n", 3, "not valid YAML"),
            ("a: 1\n\tb: 2", 2, "not valid YAML"),
            ("a: *nobody", 1, "undefined alias"),
            ("a: 1\nb: \x01", 2, "control characters"),
            ("a: 1\nb: 2\na: 3\n", 3, "'a' is given twice"),
            ("x:\n  - {k: 1,\n     k: 2}", 3, "'k' is given twice"),
            ("a: 1\n---\nb: 2\n", 2, "second document"),
            ("a: 1\nb: !!python/object/apply:os.system [ls]", 2, "!!python/object/apply:os.system is not supported"),
            ("a: !mine 3", 1, "!mine is not supported"),
            ("a: !!set {b, c}", 1, "!!set is not supported"),
            ("a: !!int foo", 1, "not a valid int"),
            ("a: !!bool foo", 1, "not a valid bool"),
            ("a: !!int ''", 1, "not a valid int"),
            ("1: x", 1, "'1' is not a string (put it in quotes)"),
            ("? [1]\n: 2", 1, "a key must be a string"),
            ("a: 1\n~: x", 2, "not a string"),
            ("<<: 3", 1, "only a mapping can be merged"),
            ("a: &a [*a]", 1, "an alias contains itself"),
            ("a: &a\n  <<: *a", 1, "an alias contains itself"),
            ("[" * 100_000, 1, "nested deeper than 64"),
            ("{a: " * 3000, 1, "nested deeper than 64"),
            ("a: '" + "1" * 5 + "\n", 2, "not valid YAML"),
            ("a: " + "1" * 5000, 1, "not a valid int"),
            ("a: \ud800", None, "not valid text"),
            ("%YAML 9.9\n---\na: 1", 1, "incompatible"),
        ],
    )
    def test_refused(self, text: str, line: int | None, words: str) -> None:
        with pytest.raises(ConfigError) as caught:
            load_yaml(text, "f.yaml")
        assert words in str(caught.value)
        assert (caught.value.source, caught.value.line) == ("f.yaml", line)

    def test_billion_laughs(self) -> None:
        lines = ["a0: &a0 lol"] + [f"a{n}: &a{n} [{', '.join([f'*a{n - 1}'] * 10)}]" for n in range(1, 10)]
        with pytest.raises(ConfigError, match="once aliases are written out"):
            load_yaml("\n".join(lines), "f")

    def test_too_many_values(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(yaml_lines, "MAX_NODES", 10)
        with pytest.raises(ConfigError, match="more than 10 values") as caught:
            load_yaml("\n".join(f"- {n}" for n in range(20)), "f")
        assert caught.value.line == 10


class TestConvert:
    def test_good(self) -> None:
        whole = convert(load_yaml(GOOD, "f"), Whole)
        assert [part.my_name for part in whole.parts] == ["one", "two"]
        assert convert(load_yaml(GOOD, "f"), Part, ("extra",)).my_name == "three"

    @pytest.mark.parametrize(
        ("entry", "line", "field", "message", "hint"),
        [
            ("prot: 1", 4, "parts[0].prot", "unknown field `prot`", "did you mean `port`?"),
            ("my_name: x", 4, "parts[0].my_name", "unknown field `my_name`", "did you mean `myName`?"),
            ("port: a", 4, "parts[0].port", "expected a whole number, got a string", None),
            ("port:", 4, "parts[0].port", "expected a whole number, got nothing", None),
            ("port: 0", 4, "parts[0].port", "expected a whole number >= 1", None),
            ("labels: []", 4, "parts[0].labels", "expected a mapping, got a list", None),
            (
                "labels:\n      ok: 'yes'\n      bad: yes",
                6,
                "parts[0].labels.bad",
                "expected a string, got a bool",
                "put the value in quotes",
            ),
            ("numbers: {a: [1], b: [1, x]}", 4, "parts[0].numbers.b[1]", "expected a whole number, got a string", None),
            ("kind: alphb", 4, "parts[0].kind", "unknown value 'alphb'", "did you mean `alpha`?"),
            ("colour: gren", 4, "parts[0].colour", "unknown value 'gren'", "did you mean `green`?"),
            ("colour: xy", 4, "parts[0].colour", "unknown value 'xy'", "known: `green`, `red`"),
        ],
    )
    def test_refused(self, entry: str, line: int, field: str, message: str, hint: str | None) -> None:
        document = load_yaml(f"parts:\n  -\n    myName: one\n    {entry}\n", "f.yaml")
        with pytest.raises(ConfigError) as caught:
            convert(document, Whole)
        error = caught.value
        assert (error.source, error.line, error.field, error.message, error.hint) == (
            "f.yaml",
            line,
            field,
            message,
            hint,
        )

    def test_missing_root_and_own_words(self) -> None:
        with pytest.raises(ConfigError, match=r"f:3: parts\[1\]: the required field `myName` is missing"):
            convert(load_yaml("parts:\n  - myName: a\n  - port: 1\n", "f"), Whole)
        with pytest.raises(ConfigError, match=r"f:1: expected a mapping, got a list"):
            convert(load_yaml("[1]", "f"), Whole)
        with pytest.raises(ConfigError, match=r"f:2: parts\[0\]: my own words - at `home`"):
            convert(load_yaml("parts:\n  - myName: forbidden\n", "f"), Whole)

    def test_prefix_path(self) -> None:
        document = load_yaml("a:\n  b:\n    myName: x\n    prot: 1\n", "f")
        with pytest.raises(ConfigError) as caught:
            convert(document, Part, ("a", "b"))
        assert (caught.value.line, caught.value.field) == (4, "a.b.prot")

    def test_inside_optional(self) -> None:
        with pytest.raises(ConfigError, match="did you mean `colour`"):
            convert(load_yaml("parts: []\nextra: {myName: a, color: red}", "f"), Whole)


def test_format_path() -> None:
    assert format_path(("plugins", 2, "parameters", "maxQueueLength")) == "plugins[2].parameters.maxQueueLength"
    assert format_path(("labels", "llm-d.ai/role")) == 'labels["llm-d.ai/role"]'
    assert not format_path(())


def test_did_you_mean_is_silent_about_long_lists() -> None:
    assert did_you_mean("zzz", [f"name-{n}" for n in range(30)]) is None
    assert did_you_mean("anything", []) is None


json_values = st.recursive(
    st.none() | st.booleans() | st.integers(-(10**9), 10**9) | st.text("abc \n\"'{}:é", max_size=6),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text("abc.", max_size=4), inner, max_size=3),
    max_leaves=12,
)


@given(json_values)
def test_json_is_read_as_json(value: Any) -> None:
    assert load_yaml(json.dumps(value), "f").data == value


@given(st.text("ab:-[]{}&*!<>|'\"#%@, \n\t1~?", max_size=40))
def test_any_text_parses_or_is_refused_with_a_source(text: str) -> None:
    try:
        document = load_yaml(text, "f")
    except ConfigError as error:
        assert error.source == "f"  # noqa: PT017
        assert error.line is not None  # noqa: PT017
    else:
        assert document.line(()) is None or document.line(("a", 0)) is not None
