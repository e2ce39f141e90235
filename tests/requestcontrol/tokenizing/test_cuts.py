from __future__ import annotations

from typing import Any

import pytest

from pointsman.requestcontrol.tokenizing.cuts import cut_pattern, pieces, safe_cuts

END: dict[str, Any] = {"id": 7, "content": "<|end|>", "special": True}


def cuts(*others: dict[str, Any], wanted: str = " <|end|> ") -> dict[str, int]:
    return safe_cuts([END, *({"id": 9} | other for other in others)], wanted)


def test_cuts_at_special_tokens_of_the_template() -> None:
    assert cuts() == {"<|end|>": 7}
    assert cuts({"content": "<|start|>"}) == {"<|end|>": 7}, "not in the template"
    assert cuts(wanted="") == {}


@pytest.mark.parametrize(
    "other",
    [
        {"content": "<|end|>\n"},
        {"content": "a<|end|>"},
        {"content": "x<|"},
        {"content": "whole", "single_word": True},
    ],
)
def test_not_where_another_token_may_lie_over_it(other: dict[str, Any]) -> None:
    assert cuts(other) == {}


@pytest.mark.parametrize("other", [{"content": "<|"}, {"content": "|>"}, {"content": "a<|end|>", "normalized": True}])
def test_where_the_leftmost_longest_match_is_the_cut_all_the_same(other: dict[str, Any]) -> None:
    assert cuts(other) == {"<|end|>": 7}


@pytest.mark.parametrize(
    "entry",
    [
        {"content": "<|end|>", "rstrip": True},
        {"content": "<|end|>", "lstrip": True},
        {"content": "<|end|>", "normalized": True},
        {"content": "<| end|>"},
        {"content": "aXa"},
        {"content": ""},
    ],
)
def test_not_at_tokens_that_look_around(entry: dict[str, Any]) -> None:
    assert safe_cuts([{"id": 1} | entry], str(entry["content"])) == {}


def test_pieces_begin_with_cuts_and_make_up_the_text() -> None:
    pattern = cut_pattern(["<a>", "<a>b"])
    assert pattern is not None
    assert pieces("x<a>y<a>b<a>", pattern) == ["x", "<a>y", "<a>b", "<a>"]
    assert pieces("<a>", pattern) == ["", "<a>"]
    assert pieces("", pattern) == [""]
    assert cut_pattern([]) is None
