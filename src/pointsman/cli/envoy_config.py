"""``pointsman envoy-config``."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated

from cyclopts import Parameter

from pointsman.api.endpoint import Endpoint
from pointsman.cli.common import EndpointFlag, EndpointsFile
from pointsman.datalayer.discovery import parse_endpoint_urls, parse_endpoints_file
from pointsman.datalayer.dns_names import is_dns_url
from pointsman.envoy.bootstrap import BootstrapOptions, eds_resource, render, to_yaml
from pointsman.errors import ConfigError
from pointsman.framework.loader import read_file


def envoy_config(
    *,
    endpoint: EndpointFlag = (),
    endpoints_file: EndpointsFile = None,
    host: str = "0.0.0.0",  # noqa: S104 - a proxy is there to be reached
    port: int = 8081,
    envoy_admin_port: int = 9901,
    picker_host: str = "127.0.0.1",
    picker_port: int = 9002,
    eds_path: Annotated[
        str | None, Parameter(help="Path, on Envoy's machine, of a file with the endpoints that Envoy watches.")
    ] = None,
    eds: bool = False,
    full_duplex: bool = False,
    message_timeout_ms: int = 200,
    fail_open: bool = True,
    max_body_bytes: int = 32 * 1024 * 1024,
) -> int:
    """Print the Envoy configuration for running Envoy yourself.

    The endpoints are written into it, or, with --eds-path, left to a file that you can replace at any time; --eds
    prints that file.

    ```console
    pointsman envoy-config --endpoint http://10.0.0.1:8000 --picker-host 10.0.0.9 > envoy.yaml
    pointsman envoy-config --endpoints-file pods.yaml --eds > endpoints.json
    ```

    Parameters
    ----------
    host
        Address that clients reach.
    port
        Port that clients reach.
    envoy_admin_port
        Port of Envoy's admin interface, on loopback.
    picker_host
        Where `pointsman epp` listens.
    picker_port
        Ditto.
    eds
        Print the endpoint file instead of the configuration.
    full_duplex
        Send request bodies FULL_DUPLEX_STREAMED, as Kubernetes gateways do: no fail-open for them.
    message_timeout_ms
        How long Envoy waits for the picker before it goes on by round-robin.
    fail_open
        Go on by round-robin when the picker is away.
    max_body_bytes
        Largest request body.
    """
    endpoints = _endpoints(endpoint, endpoints_file, required=eds_path is None or eds)
    if eds:
        sys.stdout.write(eds_resource(endpoints) + "\n")
        return 0
    options = BootstrapOptions(
        host=host,
        port=port,
        admin_port=envoy_admin_port,
        picker_host=picker_host,
        picker_port=picker_port,
        eds_path=eds_path,
        full_duplex=full_duplex,
        message_timeout_ms=message_timeout_ms,
        fail_open=fail_open,
        max_body_bytes=max_body_bytes,
    )
    sys.stdout.write(to_yaml(render(options, endpoints)))
    return 0


def _endpoints(urls: tuple[str, ...], file: Path | None, *, required: bool) -> list[Endpoint]:
    if file is not None:
        specs = parse_endpoints_file(read_file(file), str(file))
    elif any(map(is_dns_url, urls)):
        hint = "let Envoy read --eds-path, and write that with envoy-config --eds; or use `pointsman up`"
        raise ConfigError("a DNS name cannot be followed from a fixed configuration", source="--endpoint", hint=hint)
    elif urls:
        specs = parse_endpoint_urls(urls, source="--endpoint")
    elif required:
        raise ConfigError("give endpoints", hint="--endpoint http://10.0.0.1:8000 ..., --endpoints-file, or --eds-path")
    else:
        specs = []
    return [Endpoint(id=spec.id, address=spec.address, port=spec.port) for spec in specs]
