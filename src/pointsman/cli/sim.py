"""``pointsman sim``."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated

import yaml
from cyclopts import Parameter
from rich.console import Console

from pointsman.api.endpoint import MODEL_LABEL
from pointsman.app.processes import stop_signals
from pointsman.cli.common import print_json, run_async
from pointsman.errors import StartupError
from pointsman.sim.fleet import FleetOptions, PodAddress, run_fleet
from pointsman.sim.profiles import DEFAULT_PROFILE, find_profile

ENGINE_LABEL = "inference.networking.k8s.io/engine-type"


def sim(
    *,
    pods: int = 8,
    port: int = 8100,
    host: str = "127.0.0.1",
    profile: str = DEFAULT_PROFILE,
    model: str = "",
    lora: Annotated[tuple[str, ...], Parameter(negative=())] = (),
    max_loras: int = 0,
    time_scale: float = 1.0,
    stream_interval: int = 1,
    kv_tokens: int | None = None,
    events_port: int = 0,
    processes: int = 1,
    endpoints_file: Path | None = None,
    json: Annotated[bool, Parameter(negative=())] = False,
) -> int:
    """Run simulated model servers: vLLM's API, metrics and KV-cache events over a timing model, without a GPU.

    For example:

    ```console
    pointsman sim --pods 4 --endpoints-file pods.yaml
    pointsman up --endpoints-file pods.yaml
    pointsman sim --pods 2 --lora sql --lora summary --max-loras 1 --events-port 5557
    pointsman sim --profile llama-3.1-70b-4xh100 --time-scale 4 --stream-interval 20
    ```

    Parameters
    ----------
    pods
        Number of servers.
    port
        Port of the first; the others follow. 0 chooses free ones.
    host
        Address to listen on.
    profile
        Model and hardware to imitate: qwen3-32b-2xh100, llama-3.1-70b-4xh100, qwen3-8b-1xh100, or a file that
        `pointsman calibrate` wrote.
    model
        Name to serve the model under, instead of the profile's.
    lora
        Name of a LoRA adapter to offer. Repeat for each; more can be loaded at run time.
    max_loras
        Adapters that fit on a device at once; by default as many as --lora names.
    time_scale
        Simulated seconds per real second: 4 makes the engines four times as fast. Metrics stay in simulated time.
    stream_interval
        Tokens per streamed chunk after the first, as vLLM's option of the same name.
    kv_tokens
        Tokens that fit in a server's KV cache, instead of the profile's number.
    events_port
        ZeroMQ port of the first server's KV-cache events; its replay port is the next. 0: none, -1: free ones.
    processes
        Processes to spread the servers over.
    endpoints_file
        Write the servers to this file, in the format of --endpoints-file of `pointsman up`.
    json
        Print the servers as JSON.
    """
    options = FleetOptions(
        pods=pods,
        host=host,
        port=port,
        profile=profile,
        model=model,
        adapters=lora,
        max_loras=max_loras,
        time_scale=time_scale,
        stream_interval=stream_interval,
        kv_tokens=kv_tokens,
        events_port=events_port,
        processes=processes,
    )
    served = model or find_profile(profile).model

    def ready(addresses: Sequence[PodAddress]) -> None:
        if endpoints_file is not None:
            write_endpoints(endpoints_file, addresses, served)
        if json:
            print_json({"model": served, "pods": [_as_json(address) for address in addresses]})
        else:
            _show(addresses, served, endpoints_file)

    async def main() -> int:
        stopped: asyncio.Event = stop_signals()
        await run_fleet(options, ready, stopped)
        return 0

    return run_async(main)


def write_endpoints(path: Path, addresses: Sequence[PodAddress], model: str) -> None:
    """Write llm-d's file-discovery format; readers see the old file or the new one, never half of it.

    Raises:
        StartupError: if the file cannot be written.
    """
    labels = {MODEL_LABEL: model, ENGINE_LABEL: "vllm"}
    entries = [
        {
            "name": address.name,
            "namespace": "default",
            "address": _reachable(address.host),
            "port": str(address.port),
            "labels": labels,
        }
        for address in addresses
    ]

    class Dumper(yaml.SafeDumper):
        def ignore_aliases(self, data: object) -> bool:
            return True

    beside = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        beside.write_text(yaml.dump({"endpoints": entries}, Dumper=Dumper, sort_keys=False), encoding="utf-8")
        beside.replace(path)
    except OSError as error:
        raise StartupError(f"cannot write {path}: {error}") from error


def _reachable(host: str) -> str:
    return {"0.0.0.0": "127.0.0.1", "::": "::1", "localhost": "127.0.0.1"}.get(host, host)  # noqa: S104 - a test


def _as_json(address: PodAddress) -> dict[str, object]:
    found = {"name": address.name, "url": address.url, "host": address.host, "port": address.port}
    if address.events:
        found |= {"events": address.events, "replay": address.replay}
    return found


def _show(addresses: Sequence[PodAddress], model: str, file: Path | None) -> None:
    console = Console(highlight=False, soft_wrap=True)
    for address in addresses:
        events = f"   events {address.events}   replay {address.replay}" if address.events else ""
        console.print(f"[bold]{address.name}[/]  {address.url}{events}")
    flags = f"--endpoints-file {file}" if file else " ".join(f"--endpoint {address.url}" for address in addresses)
    console.print(f"\nsteer them    pointsman up {flags}", markup=False)
    body = f'{{"model": "{model}", "messages": [{{"role": "user", "content": "hello"}}]}}'
    url = f"{addresses[0].url}/v1/chat/completions"
    console.print(f"ask one       curl {url} -H 'content-type: application/json' -d '{body}'", markup=False)
    console.print("(Ctrl-C ends)")
