from __future__ import annotations

from pathlib import Path

import pytest

from pointsman.datalayer.probing import HealthRule, Models, Outcome, parse_models

R, U, F, T, X = Outcome.READ, Outcome.UNUSABLE, Outcome.FAILING, Outcome.TIMEOUT, Outcome.UNREACHABLE
CAPTURES = Path(__file__).parent.parent / "data" / "captures"


@pytest.mark.parametrize(
    ("outcomes", "verdicts"),
    [
        ([R, X, R, X], [True, None, True, None]),
        ([X, X, X, R], [None, False, False, True]),
        ([X, T, X, X], [None, None, None, False]),
        ([T] * 6, [None] * 4 + [False] * 2),
        ([T, T, T, T, U, T], [None] * 4 + [True, None]),
        ([T, T, X, T, T], [None] * 4 + [False]),
        ([X, F, X, F], [None] * 4),
        ([X, X, F, U], [None, False, None, True]),
        ([F] * 9, [None] * 9),
    ],
)
def test_verdicts(outcomes: list[Outcome], verdicts: list[bool | None]) -> None:
    rule = HealthRule()
    assert [rule.note(outcome) for outcome in outcomes] == verdicts


def test_hearsay_needs_one_failed_probe() -> None:
    rule = HealthRule(unreachable_limit=3)
    for _ in range(5):
        rule.suspect()
    assert rule.note(R) is True
    rule.suspect()
    assert rule.note(X) is False


def test_captured_models() -> None:
    models = parse_models((CAPTURES / "models_a_two_loras.json").read_bytes())
    assert models == Models(frozenset({"tiny"}), frozenset({"sql-lora", "summ-lora"}))


@pytest.mark.parametrize(
    "body", [b"", b"{}", b"[]", b'{"data": {}}', b'{"data": [{"id": 3}]}', b"\xff", b"[" * 100_000, b"<html>"]
)
def test_something_else(body: bytes) -> None:
    assert parse_models(body) is None


def test_no_models() -> None:
    assert parse_models(b'{"data": []}') == Models()
