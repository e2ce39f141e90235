"""``pointsman indexer``."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Annotated

import msgspec
from cyclopts import Parameter

from pointsman.app.indexer import Indexer, IndexerOptions
from pointsman.app.indexer_tokens import BUDGET_MS, token_options
from pointsman.app.processes import stop_signals
from pointsman.app.sharing import SharingOptions
from pointsman.cli.common import EndpointFlag, EndpointsFile, LogLevel, endpoint_options, run_async
from pointsman.errors import ConfigError
from pointsman.kvcache.kv_index import DEFAULT_MAX_BLOCKS
from pointsman.kvcache.shared_address import shared_address
from pointsman.observability.logging import setup


def indexer(
    *,
    endpoint: EndpointFlag = (),
    endpoints_file: EndpointsFile = None,
    bind: str | None = None,
    events_port: int | None = None,
    host: str = "127.0.0.1",
    port: int = 9095,
    max_blocks: int = DEFAULT_MAX_BLOCKS,
    snapshot: Path | None = None,
    snapshot_period: float = 60.0,
    shared: str | None = None,
    scope: str = "default",
    tokenizer: Path | None = None,
    tokenize_url: str | None = None,
    tokenize_budget_ms: float = BUDGET_MS,
    log_level: LogLevel = "info",
    ready_file: Annotated[Path | None, Parameter(show=False)] = None,
) -> int:
    """Run the KV-cache index as a service of its own.

    It follows the KV-cache events of the model servers and answers which of them holds how much of a prompt.

    ```console
    pointsman indexer --endpoint http://10.0.0.1:8000 --endpoint http://10.0.0.2:8000 --snapshot index.snapshot
    pointsman indexer --endpoints-file pods.yaml --shared redis://10.0.0.9:6379/0 --scope qwen3-32b
    pointsman indexer --bind tcp://127.0.0.1:5555
    pointsman indexer --endpoints-file pods.yaml --tokenizer /models/qwen3-32b --tokenize-url pool
    curl -d '{"model": "m", "prompt": "Once upon a time"}' http://127.0.0.1:9095/query
    ```

    Parameters
    ----------
    bind
        Let model servers connect to this ZeroMQ address; their topics must be kv@POD@MODEL.
    events_port
        ZeroMQ port of every server. By default each is asked (/kv_event_sources, /server_info); the label
        kv-events-port in an endpoints file goes before both.
    host
        Address of the HTTP service. There is no authentication: keep it off public networks.
    port
        Port of the HTTP service; 0 chooses one.
    max_blocks
        Blocks kept at most; the oldest go first.
    snapshot
        File to write the index to, now and then and at the end, and to start from.
    snapshot_period
        Seconds between two snapshots.
    shared
        Redis or Valkey server to share the index over with other indexers and pickers, such as redis://10.0.0.9:6379/0.
        What they hear fills in for servers that this one does not hear (yet). Needs the extra pointsman[redis].
    scope
        Name of the pool on that server: only who gives the same shares.
    tokenizer
        Folder of the model, for queries that hold a prompt or messages instead of token ids. Needs the extra
        pointsman[tokenizer]. Every query is tokenized with it, whatever model it names.
    tokenize_url
        Engine to ask for the token ids of prompts (/render or /tokenize), such as http://10.0.0.1:8000; pool asks the
        servers of --endpoint or --endpoints-file in turn. With --tokenizer, it is asked what that cannot do.
    tokenize_budget_ms
        Milliseconds a query waits for its token ids; then it is answered with 503.
    log_level
        How much to log.
    """
    _check("--port", port, 0, 65_535)
    _check("--max-blocks", max_blocks, 1, 2**32)
    _check("--events-port", 1 if events_port is None else events_port, 1, 65_535)
    if not 0.1 <= snapshot_period < math.inf:
        raise ConfigError("--snapshot-period: expected at least 0.1 seconds")
    if snapshot is not None and not snapshot.absolute().parent.is_dir():
        raise ConfigError(f"--snapshot: there is no folder {snapshot.absolute().parent}")
    if not scope:
        raise ConfigError("--scope: a scope has a name, such as the pool's")
    if bind is not None and "://" not in bind:
        raise ConfigError(f"--bind: expected an address like tcp://127.0.0.1:5555, got {bind!r}")
    setup(log_level)
    options = IndexerOptions(
        endpoints=endpoint_options(endpoint, endpoints_file),
        bind=bind,
        events_port=events_port,
        host=host,
        port=port,
        max_blocks=max_blocks,
        snapshot=snapshot,
        snapshot_period=snapshot_period,
        shared=SharingOptions(shared_address(shared, "--shared"), scope) if shared is not None else None,
        tokens=token_options(tokenizer, tokenize_url, tokenize_budget_ms),
    )
    return run_async(lambda: _run(options, ready_file))


def _check(flag: str, value: int, low: int, high: int) -> None:
    if not low <= value <= high:
        raise ConfigError(f"{flag}: expected a number from {low} to {high}, got {value}")


async def _run(options: IndexerOptions, ready_file: Path | None) -> int:
    stopped = stop_signals()
    service = Indexer(options)
    try:
        await service.start()
        if ready_file is not None:
            part = ready_file.with_suffix(".part")
            part.write_bytes(msgspec.json.encode({"port": service.port, "events": service.bound}))
            part.replace(ready_file)
        await stopped.wait()
    finally:
        await service.stop()
    return 0
