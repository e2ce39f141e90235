"""``pointsman epp``."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

from cyclopts import Parameter

from pointsman.app.picker import Picker, PickerOptions, write_port_file
from pointsman.app.processes import stop_signals
from pointsman.app.recording import record_options
from pointsman.app.transports import Transport, TransportOptions
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
from pointsman.cli.kube_flags import KubeFlags
from pointsman.observability.logging import setup


def epp(
    *,
    endpoint: EndpointFlag = (),
    endpoints_file: EndpointsFile = None,
    kube: KubeFlags = KubeFlags(),  # noqa: B008 - immutable
    policies: Path | None = None,
    config: ConfigFlag = "default",
    host: str = "127.0.0.1",
    port: int = 9002,
    health_port: int | None = None,
    transport: Transport = "native",
    unix_path: str | None = None,
    tls_cert: Path | None = None,
    tls_key: Path | None = None,
    admin_host: str = "127.0.0.1",
    admin_port: int = 9090,
    max_body_bytes: int = 32 * 1024 * 1024,
    scrape_period: float = 0.2,
    drain: float = 30.0,
    decisions: int = 10_000,
    records: RecordsFlag = None,
    records_sample: RecordsSample = 1.0,
    records_max_mb: RecordsMaxMb = 512.0,
    kv_snapshot: Path | None = None,
    time_scale: Annotated[float, Parameter(show=False)] = 1.0,
    log_level: LogLevel = "info",
    ready_file: Annotated[Path | None, Parameter(show=False)] = None,
    seed: Annotated[int | None, Parameter(show=False)] = None,
) -> int:
    """Run the picker alone, for an Envoy or gateway of your own.

    `pointsman envoy-config` prints the Envoy configuration that goes with it.

    ```console
    pointsman epp --endpoints-file pods.yaml --host 0.0.0.0 --port 9002 --config my-policy.yaml
    pointsman epp --pool-name vllm-qwen3-32b --pool-namespace inference --host 0.0.0.0
    pointsman epp --endpoints-file pods.yaml --records /var/lib/pointsman/records --records-max-mb 2000
    pointsman epp --endpoint-selector app=vllm --endpoint-target-ports 8000 --host 0.0.0.0
    ```

    Parameters
    ----------
    policies
        File of InferenceObjective and InferenceModelRewrite manifests, for use without Kubernetes too; watched.
    host
        Address of the ext-proc port; 0.0.0.0 for all interfaces.
    port
        Port of the ext-proc and gRPC health services; 0 chooses one.
    health_port
        A further port with the gRPC health service only.
    transport
        How ext-proc is served: native is our own HTTP/2 server, grpcio the reference.
    unix_path
        Listen on this Unix socket, too.
    tls_cert
        Certificate chain in PEM; with --tls-key, ext-proc is served over TLS. Changed files are read again.
    tls_key
        Private key in PEM.
    admin_host
        Address of the admin pages. They show no prompt text, but keep them off public networks.
    admin_port
        Port of the admin pages; 0 chooses one.
    max_body_bytes
        Largest request body.
    scrape_period
        Seconds between two readings of a server's /metrics.
    drain
        Seconds that requests under way may take to finish at the end.
    decisions
        How many decisions to remember.
    kv_snapshot
        File to write the index of KV caches to, every minute and at the end, and to start from: until a server's own
        events tell, what it held before is worth as much as a guess. Needs a precise-prefix-cache-producer.
    log_level
        How much to log.
    """
    check_snapshot(kv_snapshot)
    setup(log_level)
    options = PickerOptions(
        endpoints=endpoint_options(endpoint, endpoints_file, kube.options()),
        policies=policies,
        config=config,
        transport=TransportOptions(
            transport=transport,
            host=host,
            port=port,
            health_port=health_port,
            unix_path=unix_path,
            tls_cert=tls_cert,
            tls_key=tls_key,
            max_body_bytes=max_body_bytes,
        ),
        admin_host=admin_host,
        admin_port=admin_port,
        scrape_period=scrape_period,
        drain=drain,
        decisions=decisions,
        records=record_options(records, records_sample, records_max_mb),
        kv_snapshot=kv_snapshot,
        time_scale=time_scale,
        seed=seed,
    )
    return run_async(lambda: _run(options, ready_file))


async def _run(options: PickerOptions, ready_file: Path | None) -> int:
    stopped = stop_signals()
    picker = Picker(options)
    await picker.start()
    if ready_file is not None:
        write_port_file(ready_file, picker)
    await picker.serve_until(stopped)
    return 0
