"""No password leaves with a configuration that is shown."""

from __future__ import annotations

import pytest

from pointsman.observability.redaction import without_passwords


@pytest.mark.parametrize(
    ("given", "shown"),
    [
        ("redis://user:secret@host:6379/0", "redis://…@host:6379/0"),
        ("redis://:p@ss@host:6379", "redis://…@host:6379"),
        ("http://host/a@b", "http://host/a@b"),
        ("mail@host", "mail@host"),
        (7, 7),
        ({"a": ["http://u:p@h", {"b": "x"}]}, {"a": ["http://…@h", {"b": "x"}]}),
    ],
)
def test_credentials_are_hidden(given: object, shown: object) -> None:
    assert without_passwords(given) == shown
