"""Envoy's configuration for a stand-alone picker, as plain data."""

from __future__ import annotations

import ipaddress
import json
from collections.abc import Iterable, Mapping
from pathlib import PurePath
from typing import Any

import msgspec
import yaml

from pointsman.api.endpoint import Endpoint
from pointsman.errors import ConfigError

DESTINATION = "x-gateway-destination-endpoint"
SERVED = "x-gateway-destination-endpoint-served"
POOL = "pool"
"""Name of the listener, cluster and endpoint resource of the model servers."""

ROUND_ROBIN = "round_robin"
"""Name of the listener and cluster that bypass the picker."""

_TYPES = "type.googleapis.com/envoy."
_HTTP = "extensions.filters.http"
_LB = "extensions.load_balancing_policies"


class BootstrapOptions(msgspec.Struct, frozen=True, kw_only=True):
    """What differs from one Envoy to the next. Ports of 0 are chosen by the system when Envoy starts.

    Attributes:
        host: address that clients reach.
        port: port that clients reach.
        round_robin_port: second listener that spreads requests blindly over the same pods, None for none.
        admin_port: port of Envoy's admin interface, always on loopback.
        picker_host: where the picker listens.
        picker_port: ditto.
        eds_path: file with the endpoints, watched for replacement; None writes them into the configuration.
        full_duplex: send bodies FULL_DUPLEX_STREAMED, as gateways do, instead of BUFFERED: no fail-open for them.
        full_duplex_response: in full duplex, pass the answers' bodies through the picker, too.
        fail_open: when the picker is away or late, go on with round robin instead of failing requests.
        message_timeout_ms: how late the picker may be with one reply.
        max_body_bytes: largest request body that is buffered; Envoy answers 413 past it.
        connect_timeout_ms: per attempt to reach a model server.
        retries: further endpoints to try when one refuses the connection.
        stream_idle_s: seconds without a byte either way after which a request is given up.
        upstream_idle_s: seconds after which an unused connection to a model server is closed; below the servers' own
            keep-alive time (vLLM: 5 s), or requests meet connections that are just being closed.
    """

    host: str = "0.0.0.0"  # noqa: S104 - the point of a proxy is to be reached
    port: int = 8081
    round_robin_port: int | None = None
    admin_port: int = 9901
    picker_host: str = "127.0.0.1"
    picker_port: int = 9002
    eds_path: str | None = None
    full_duplex: bool = False
    full_duplex_response: bool = False
    fail_open: bool = True
    message_timeout_ms: int = 200
    max_body_bytes: int = 32 * 1024 * 1024
    connect_timeout_ms: int = 2000
    retries: int = 2
    stream_idle_s: int = 3600
    upstream_idle_s: float = 4.0


def render(options: BootstrapOptions, endpoints: Iterable[Endpoint] = ()) -> dict[str, Any]:
    """The whole bootstrap configuration. ``endpoints`` are used only without an ``eds_path``.

    Raises:
        ConfigError: if an endpoint's address is a name, not an IP address.
    """
    assignment = None if options.eds_path is not None else _assignment(endpoints)
    listeners = [_listener(options, POOL, options.port, [_ext_proc(options)])]
    clusters = [_picker_cluster(options), _pool_cluster(options, POOL, _override_host(), assignment)]
    if options.round_robin_port is not None:
        listeners.append(_listener(options, ROUND_ROBIN, options.round_robin_port, []))
        clusters.append(_pool_cluster(options, ROUND_ROBIN, _round_robin(), assignment))
    return {
        "node": {"id": "pointsman", "cluster": "pointsman"},
        "admin": {"address": _address("127.0.0.1", options.admin_port)},
        "static_resources": {"listeners": listeners, "clusters": clusters},
    }


def to_yaml(bootstrap: Mapping[str, Any]) -> str:
    """The configuration as a file's text."""
    return yaml.safe_dump(dict(bootstrap), sort_keys=False)


def eds_resource(endpoints: Iterable[Endpoint]) -> str:
    """Content of the endpoint file: a DiscoveryResponse in JSON.

    Raises:
        ConfigError: if an endpoint's address is a name, not an IP address.
    """
    return json.dumps({"resources": [_any("config.endpoint.v3.ClusterLoadAssignment", **_assignment(endpoints))]})


def _any(kind: str, **fields: Any) -> dict[str, Any]:
    return {"@type": _TYPES + kind, **fields}


def _typed(name: str, kind: str, **fields: Any) -> dict[str, Any]:
    return {"name": f"envoy.{name}", "typed_config": _any(kind, **fields)}


def _address(host: str, port: int) -> dict[str, Any]:
    return {"socket_address": {"address": host, "port_value": port}}


def _is_ip(host: str) -> bool:
    try:
        ipaddress.ip_address(host)
    except ValueError:
        return False
    return True


def _assignment(endpoints: Iterable[Endpoint]) -> dict[str, Any]:
    hosts = []
    for endpoint in endpoints:
        if not _is_ip(endpoint.address):
            raise ConfigError(
                f"endpoint {endpoint.id} has the address {endpoint.address!r}",
                hint="Envoy's endpoint lists take IP addresses, not names",
            )
        hosts.append({"endpoint": {"address": _address(endpoint.address, endpoint.port)}})
    return {"cluster_name": POOL, "endpoints": [{"lb_endpoints": hosts}]}


def _listener(options: BootstrapOptions, name: str, port: int, filters: list[dict[str, Any]]) -> dict[str, Any]:
    manager = _any(
        "extensions.filters.network.http_connection_manager.v3.HttpConnectionManager",
        stat_prefix=name,
        codec_type="AUTO",
        route_config={"virtual_hosts": [{"name": name, "domains": ["*"], "routes": [_route(options, name)]}]},
        stream_idle_timeout=f"{options.stream_idle_s}s",
        preserve_external_request_id=True,
        server_header_transformation="PASS_THROUGH",
        http_filters=[
            *filters,
            _typed("filters.http.router", f"{_HTTP}.router.v3.Router", suppress_envoy_headers=True),
        ],
    )
    network = {"name": "envoy.filters.network.http_connection_manager", "typed_config": manager}
    return {
        "name": name,
        "address": _address(options.host, port),
        "per_connection_buffer_limit_bytes": options.max_body_bytes,
        "filter_chains": [{"filters": [network]}],
    }


def _route(options: BootstrapOptions, cluster: str) -> dict[str, Any]:
    retry_policy = {
        # nothing has reached a model server yet in these cases: no prompt is computed twice
        "retry_on": "connect-failure,refused-stream",
        "num_retries": options.retries,
        "retry_host_predicate": [
            _typed(
                "retry_host_predicates.previous_hosts", "extensions.retry.host.previous_hosts.v3.PreviousHostsPredicate"
            )
        ],
        "host_selection_retry_max_attempts": 3,
        "retry_back_off": {"base_interval": "0.005s", "max_interval": "0.05s"},
    }
    # answers may take minutes: only idleness ends them
    return {"match": {"prefix": "/"}, "route": {"cluster": cluster, "timeout": "0s", "retry_policy": retry_policy}}


def _ext_proc(options: BootstrapOptions) -> dict[str, Any]:
    duplex, duplex_response = options.full_duplex, options.full_duplex and options.full_duplex_response
    mode = {
        "request_header_mode": "SEND",
        "response_header_mode": "SEND",
        "request_body_mode": "FULL_DUPLEX_STREAMED" if duplex else "BUFFERED",
        "response_body_mode": "FULL_DUPLEX_STREAMED" if duplex_response else "NONE",
        # full duplex demands trailers: they may be what ends a body
        "request_trailer_mode": "SEND" if duplex else "SKIP",
        "response_trailer_mode": "SEND" if duplex_response else "SKIP",
    }
    return _typed(
        "filters.http.ext_proc",
        f"{_HTTP}.ext_proc.v3.ExternalProcessor",
        grpc_service={"envoy_grpc": {"cluster_name": "picker", "authority": options.picker_host}},
        processing_mode=mode,
        allow_mode_override=True,
        failure_mode_allow=options.fail_open,
        message_timeout=f"{options.message_timeout_ms / 1000}s",
        metadata_options={
            "forwarding_namespaces": {"untyped": ["envoy.lb", "envoy.lb.subset_hint"]},
            "receiving_namespaces": {"untyped": ["envoy.lb"]},
        },
    )


def _cluster(options: BootstrapOptions, name: str, protocol: Mapping[str, Any]) -> dict[str, Any]:
    lifted = {"max_connections": 100_000, "max_pending_requests": 100_000, "max_requests": 100_000, "max_retries": 1000}
    return {
        "name": name,
        "connect_timeout": f"{options.connect_timeout_ms / 1000}s",
        "per_connection_buffer_limit_bytes": options.max_body_bytes,
        # the defaults of 1024 requests and 3 retries are made for web pages, not for answers that take minutes
        "circuit_breakers": {"thresholds": [lifted]},
        "typed_extension_protocol_options": {
            "envoy.extensions.upstreams.http.v3.HttpProtocolOptions": _any(
                "extensions.upstreams.http.v3.HttpProtocolOptions", **protocol
            )
        },
    }


def _picker_cluster(options: BootstrapOptions) -> dict[str, Any]:
    host = {"endpoint": {"address": _address(options.picker_host, options.picker_port)}}
    return {
        **_cluster(options, "picker", {"explicit_http_config": {"http2_protocol_options": {}}}),
        "type": "STATIC" if _is_ip(options.picker_host) else "STRICT_DNS",
        "load_assignment": {"cluster_name": "picker", "endpoints": [{"lb_endpoints": [host]}]},
    }


def _pool_cluster(
    options: BootstrapOptions, name: str, policy: dict[str, Any], assignment: dict[str, Any] | None
) -> dict[str, Any]:
    protocol = {
        "common_http_protocol_options": {"idle_timeout": f"{options.upstream_idle_s}s"},
        "explicit_http_config": {"http_protocol_options": {}},
    }
    cluster = {**_cluster(options, name, protocol), "load_balancing_policy": {"policies": [policy]}}
    if options.eds_path is None:
        return {**cluster, "type": "STATIC", "load_assignment": assignment}
    path = PurePath(options.eds_path)
    source = {"path": str(path), "watched_directory": {"path": str(path.parent)}}
    eds = {"service_name": POOL, "eds_config": {"resource_api_version": "V3", "path_config_source": source}}
    return {**cluster, "type": "EDS", "eds_cluster_config": eds}


def _round_robin() -> dict[str, Any]:
    return {"typed_extension_config": _typed("load_balancing_policies.round_robin", f"{_LB}.round_robin.v3.RoundRobin")}


def _override_host() -> dict[str, Any]:
    # the metadata alone, not the header: a client must not steer when the picker is away
    source = {"metadata": {"key": "envoy.lb", "path": [{"key": DESTINATION}]}}
    policy = _typed(
        "load_balancing_policies.override_host",
        f"{_LB}.override_host.v3.OverrideHost",
        override_host_sources=[source],
        # tells the picker who really served, after a retry or a fallback
        selected_host_key={"key": "envoy.lb", "path": [{"key": SERVED}]},
        fallback_policy={"policies": [_round_robin()]},
    )
    return {"typed_extension_config": policy}
