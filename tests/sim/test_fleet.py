from __future__ import annotations

import asyncio

import aiohttp
import pytest

from pointsman.errors import ConfigError, StartupError
from pointsman.sim.fleet import FleetOptions, PodAddress, make_fleet, run_fleet


async def ask_each(addresses: list[PodAddress]) -> list[str]:
    """The pods' own names, as their answers give them."""
    names = []
    async with aiohttp.ClientSession() as client:
        for address in addresses:
            async with client.post(f"{address.url}/v1/completions", json={"prompt": "x"}) as response:
                names.append(response.headers["x-inference-pod"])
                await response.read()
    return names


def run(options: FleetOptions) -> tuple[list[PodAddress], list[str]]:
    async def main() -> tuple[list[PodAddress], list[str]]:
        ready: asyncio.Future[list[PodAddress]] = asyncio.get_running_loop().create_future()
        stop = asyncio.Event()
        running = asyncio.create_task(run_fleet(options, ready.set_result, stop))
        try:
            addresses = await asyncio.wait_for(ready, 15)
            names = await ask_each(addresses)
        finally:
            stop.set()
            await running
        return addresses, names

    return asyncio.run(main())


def test_pods_listen_where_they_say() -> None:
    addresses, names = run(FleetOptions(pods=3, time_scale=50, events_port=-1))
    assert names == [address.name for address in addresses] == ["sim-0", "sim-1", "sim-2"]
    assert len({address.port for address in addresses}) == 3
    assert all(address.events.startswith("tcp://127.0.0.1:") for address in addresses)


def test_pods_can_be_spread_over_processes() -> None:
    addresses, names = run(FleetOptions(pods=3, time_scale=50, processes=2))
    assert names == [address.name for address in addresses] == ["sim-0", "sim-1", "sim-2"]


@pytest.mark.parametrize("processes", [1, 2])
def test_a_taken_port_stops_the_start(processes: int) -> None:
    async def main() -> None:
        server = await asyncio.start_server(lambda *_: None, "127.0.0.1", 0)
        taken = server.sockets[0].getsockname()[1]
        with pytest.raises(StartupError, match=f"cannot listen on 127.0.0.1:{taken}"):
            await run_fleet(FleetOptions(pods=2, port=taken, processes=processes), lambda _: None, asyncio.Event())
        server.close()
        await server.wait_closed()

    asyncio.run(main())


def test_ports_follow_each_other() -> None:
    options = FleetOptions(port=8100, events_port=5557, kv_tokens=1600)
    pod = options.pod(2)
    assert (pod.name, pod.port, pod.events_port, pod.replay_port) == ("sim-2", 8102, 5561, 5562)
    assert pod.profile.num_blocks == 100
    free = FleetOptions(events_port=-1).pod(2)
    assert (free.port, free.events_port, free.replay_port) == (0, -1, -1)


def test_nonsense_is_refused() -> None:
    with pytest.raises(ConfigError, match="above 0"):
        make_fleet(FleetOptions(pods=0))
    with pytest.raises(ConfigError, match="no engine profile"):
        make_fleet(FleetOptions(profile="x"))


def test_an_address_makes_a_url() -> None:
    assert PodAddress("a", "::1", 80).url == "http://[::1]:80"
