from __future__ import annotations

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.builders import make_endpoint, make_endpoints, make_plugin, make_request, make_state

from pointsman.plugins.scorers.context_length_aware import ContextLengthAware

LABEL = "llm-d.ai/context-length-range"


@pytest.mark.parametrize(
    ("tokens", "label", "score"),
    [
        # width 10,000: 0.7/2 = 0.35; headroom 10,000, 5,000, 0 of it: 0.3, 0.15, 0
        (0, "0-10000", 0.3 + 0.7 * 0.65),
        (5000, "0-10000", 0.3 + 0.7 * 0.5),
        (10_000, "0-10000", 0.3 + 0.7 * 0.35),
        (10_000, " 0 - 10000 ", 0.3 + 0.7 * 0.35),
        (7, "7-7", 1.0),
        (11_000, "0-10000", 0.3 / 2),
        (0, "3000-4000", 0.3 / 4),
        (10_001, "0-10000", 0.3 / 1.001),
        (5, None, 0.5),
        (5, "short", 0.5),
        (5, "9-1", 0.5),
        (5, "1-2-3", 0.5),
        (5, "-5", 0.5),
        (5, "0-99999999999999999999", 0.5),
    ],
)
def test_score(tokens: int, label: str | None, score: float) -> None:
    endpoint = make_endpoint(labels={} if label is None else {LABEL: label})
    request = make_request(prompt_tokens=tokens)
    plugin = make_plugin(ContextLengthAware)
    assert plugin.score(request, [endpoint], make_state()) == pytest.approx([score])
    assert plugin.stats() == {"bad-labels": int(label is not None and score == 0.5)}


def test_any_fit_beats_any_misfit() -> None:
    wide, near = make_endpoint(0, labels={LABEL: "0-1000000"}), make_endpoint(1, labels={LABEL: "0-999999"})
    fit, misfit = make_plugin(ContextLengthAware).score(
        make_request(prompt_tokens=1_000_000), [wide, near], make_state()
    )
    assert fit > 0.3 > misfit


def test_filter() -> None:
    labels = ["0-2048", "2048-8192", None, "nonsense"]
    endpoints = [make_endpoint(slot, labels={"len": text} if text else {}) for slot, text in enumerate(labels)]
    plugin = make_plugin(ContextLengthAware, enableFiltering=True, label="len")
    for tokens, kept in [(0, [0, 2, 3]), (2048, [0, 1, 2, 3]), (2049, [1, 2, 3]), (9000, [2, 3])]:
        result = plugin.filter(make_request(prompt_tokens=tokens), endpoints, make_state())
        assert [endpoint.slot for endpoint in result] == kept


def test_does_not_filter_unless_told() -> None:
    endpoints = make_endpoints(2)
    assert make_plugin(ContextLengthAware).filter(make_request(), endpoints, make_state()) is endpoints


def test_refuses() -> None:
    with pytest.raises(msgspec.ValidationError, match="label"):
        make_plugin(ContextLengthAware, label="")


@given(st.text("0123456789- .+e", max_size=12), st.integers(0, 2_000_000))
def test_any_label_gives_a_score(text: str, tokens: int) -> None:
    endpoint, request = make_endpoint(labels={LABEL: text}), make_request(prompt_tokens=tokens)
    (score,) = make_plugin(ContextLengthAware).score(request, [endpoint], make_state())
    kept = make_plugin(ContextLengthAware, enableFiltering=True).filter(request, [endpoint], make_state())
    assert 0 < score <= 1
    assert bool(kept) == (score >= 0.3), "in range, or no range at all"
