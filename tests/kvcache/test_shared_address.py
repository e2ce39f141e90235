from __future__ import annotations

import pytest

from pointsman.errors import ConfigError
from pointsman.kvcache import shared_address as module
from pointsman.kvcache.shared_address import shared_address, shown_address


@pytest.mark.parametrize(
    ("written", "meant"),
    [
        ("redis://10.0.0.9:6379/0", "redis://10.0.0.9:6379/0"),
        (
            "rediss://user:p%40ss@cache:6380/2?ssl_cert_reqs=none",
            "rediss://user:p%40ss@cache:6380/2?ssl_cert_reqs=none",
        ),
        ("valkey://cache", "redis://cache"),
        ("valkeys://cache:1", "rediss://cache:1"),
        ("cache.prod:6379", "redis://cache.prod:6379"),
        (" cache ", "redis://cache"),
        ("[::1]:6379", "redis://[::1]:6379"),
        ("unix:///run/redis.sock?db=1", "unix:///run/redis.sock?db=1"),
    ],
)
def test_what_people_write(written: str, meant: str) -> None:
    assert shared_address(written, "--shared") == meant


@pytest.mark.parametrize(
    "written",
    ["", "http://cache:6379", "redis://", "redis://cache:70000", "cache:port", "redis://c/x", "unix://", "::1", "c:0"],
)
def test_what_is_no_address_is_refused_with_the_field_and_the_fix(written: str) -> None:
    with pytest.raises(ConfigError, match="redis://HOST:6379/0") as refused:
        shared_address(written, "--shared")
    assert refused.value.field == "--shared"


@pytest.mark.parametrize("query", ["db=x", "protocol=3", "socket_timeout=fast", "password="])
def test_settings_are_few(query: str) -> None:
    with pytest.raises(ConfigError, match="ssl_ca_certs"):
        shared_address(f"redis://cache?{query}", "--shared")


def test_secrets_are_not_shown() -> None:
    assert shown_address("redis://u:secret@cache:1/0") == "redis://…@cache:1/0"
    assert shown_address("redis://cache:1/0") == "redis://cache:1/0"
    with pytest.raises(ConfigError) as refused:
        shared_address("http://u:secret@cache", "x")
    assert "secret" not in str(refused.value)


def test_a_missing_client_names_the_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "find_spec", lambda _: None)
    with pytest.raises(ConfigError, match=r"pip install 'pointsman\[redis\]'"):
        shared_address("redis://cache", "--shared")
