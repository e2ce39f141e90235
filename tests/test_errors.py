"""Errors: what a client is told, what a person reads."""

from __future__ import annotations

import re

import pytest

from pointsman import errors
from pointsman.errors import ConfigError, ConfigErrors, PointsmanError

ALL = [value for value in vars(errors).values() if isinstance(value, type) and issubclass(value, PointsmanError)]

ANSWERS = [
    (errors.BadRequestError, 400, "bad-request", None),
    (errors.BodyTooLargeError, 413, "body-too-large", None),
    (errors.NoEndpointsError, 503, "no-endpoints", "rejected-no-endpoints"),
    (errors.SaturatedError, 429, "saturated", "rejected-saturated"),
    (errors.AdmissionDeniedError, 429, "admission-denied", "rejected-saturated"),
    (errors.ForbiddenError, 403, "forbidden", None),
    (errors.ShuttingDownError, 503, "shutting-down", "rejected-shutting-down"),
    (errors.PluginError, 500, "plugin", None),
    (errors.StartupError, 500, "startup", None),
]


@pytest.mark.parametrize(("cls", "status", "reason", "drop"), ANSWERS, ids=lambda v: getattr(v, "__name__", ""))
def test_each_error_says_how_it_ends_up_at_a_client(
    cls: type[PointsmanError], status: int, reason: str, drop: str | None
) -> None:
    assert (cls.http_status, cls.reason, cls.drop_reason) == (status, reason, drop)


def test_reasons_are_slugs_and_codes_are_names() -> None:
    for cls in ALL:
        assert re.fullmatch(r"[a-z]+(-[a-z]+)*", cls.reason), cls
        assert re.fullmatch(r"[A-Z][A-Za-z]+", cls.code), cls


def test_what_a_client_is_told_has_a_reason_of_its_own() -> None:
    reasons = [cls.reason for cls in ALL if issubclass(cls, errors.RequestError)]
    assert len(reasons) == len(set(reasons))


@pytest.mark.parametrize(
    ("error", "text"),
    [
        (ConfigError("is wrong"), "is wrong"),
        (ConfigError("is wrong", source="a.yaml"), "a.yaml: is wrong"),
        (ConfigError("is wrong", source="a.yaml", line=3), "a.yaml:3: is wrong"),
        (ConfigError("is wrong", field="plugins[0]"), "plugins[0]: is wrong"),
        (
            ConfigError("is wrong", source="a.yaml", line=3, field="plugins[0]", hint="try b"),
            "a.yaml:3: plugins[0]: is wrong (try b)",
        ),
    ],
)
def test_a_configuration_error_reads_from_the_place_to_the_cure(error: ConfigError, text: str) -> None:
    assert str(error) == text
    assert error.args == (text,)


def test_placing_an_error_keeps_what_it_knew() -> None:
    known = ConfigError("is wrong", line=3, hint="try b")
    placed = known.at("a.yaml", 99, "plugins[0]")
    assert (placed.source, placed.line, placed.field) == ("a.yaml", 3, "plugins[0]")
    assert (placed.message, placed.hint) == ("is wrong", "try b")
    assert known.source is None


def test_line_zero_counts_as_known() -> None:
    assert ConfigError("x", line=0).at("a", 7).line == 0


def test_several_errors_have_a_line_each() -> None:
    several = ConfigErrors([ConfigError("one", line=1), ConfigError("two", line=2)])
    assert isinstance(several, ConfigError)
    assert [error.message for error in several.errors] == ["one", "two"]
    assert str(several).splitlines() == ["1: one", "2: two"]
