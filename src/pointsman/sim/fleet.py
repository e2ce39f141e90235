"""Several simulated pods, in this process or shared out over several."""

from __future__ import annotations

import asyncio
import contextlib
import multiprocessing
import signal
from collections.abc import Callable, Sequence
from multiprocessing.connection import Connection
from multiprocessing.process import BaseProcess

import msgspec

from pointsman.errors import ConfigError, PointsmanError, StartupError
from pointsman.sim.profiles import DEFAULT_PROFILE, find_profile
from pointsman.sim.server import PodOptions, SimulatedPod

try:
    import uvloop
except ImportError:  # pragma: no cover - there is none for Windows
    uvloop = None

START_TIMEOUT = 30.0
STOP_TIMEOUT = 10.0


class PodAddress(msgspec.Struct, frozen=True):
    """Where a pod listens. The event endpoints are empty when events are off."""

    name: str
    host: str
    port: int
    events: str = ""
    replay: str = ""

    @property
    def url(self) -> str:
        host = f"[{self.host}]" if ":" in self.host else self.host
        return f"http://{host}:{self.port}"


class FleetOptions(msgspec.Struct, frozen=True):
    """A fleet of equal pods, named ``sim-0`` and on."""

    pods: int = 8
    host: str = "127.0.0.1"
    port: int = 0
    """The first pod's; the others follow. 0: any free ports."""
    profile: str = DEFAULT_PROFILE
    model: str = ""
    """Served name; empty: the profile's."""
    adapters: tuple[str, ...] = ()
    max_loras: int = 0
    time_scale: float = 1.0
    stream_interval: int = 1
    kv_tokens: int | None = None
    events_port: int = 0
    """The first pod's; its replay port is the next, then comes the second pod's. 0: no events, -1: any free ports."""
    processes: int = 1

    def pod(self, index: int) -> PodOptions:
        """Options of one pod.

        Raises:
            ConfigError: if there is no such profile.
        """
        fixed_events = self.events_port > 0
        return PodOptions(
            name=f"sim-{index}",
            profile=find_profile(self.profile, kv_tokens=self.kv_tokens),
            host=self.host,
            port=self.port + index if self.port else 0,
            model=self.model,
            adapters=self.adapters,
            max_loras=self.max_loras,
            time_scale=self.time_scale,
            stream_interval=self.stream_interval,
            events_port=self.events_port + 2 * index if fixed_events else self.events_port,
            replay_port=self.events_port + 2 * index + 1 if fixed_events else self.events_port,
        )


class Fleet:
    """Pods in this process."""

    def __init__(self, pods: Sequence[PodOptions]) -> None:
        self.pods = [SimulatedPod(options) for options in pods]

    async def start(self) -> list[PodAddress]:
        """Start all pods.

        Raises:
            StartupError: if a port is taken; nothing is left running.
        """
        try:
            for pod in self.pods:
                await pod.start()
        except StartupError:
            await self.stop()
            raise
        return [_address(pod) for pod in self.pods]

    async def stop(self) -> None:
        await asyncio.gather(*(pod.stop() for pod in self.pods))


class SharedFleet:
    """Pods dealt out over child processes, which end when this process does."""

    def __init__(self, pods: Sequence[PodOptions], processes: int) -> None:
        shares = [list(pods[i::processes]) for i in range(min(processes, len(pods)))]
        context = multiprocessing.get_context("spawn")  # a forked event loop would be shared
        self._children: list[tuple[BaseProcess, Connection]] = []
        for share in shares:
            ours, theirs = context.Pipe()
            self._children.append((context.Process(target=_serve_share, args=(share, theirs), daemon=True), ours))
            self._children[-1][0].start()
            theirs.close()

    async def start(self) -> list[PodAddress]:
        """Wait until all pods listen.

        Raises:
            StartupError: if one cannot.
        """
        addresses: list[PodAddress] = []
        for _, pipe in self._children:
            reply = await asyncio.to_thread(_receive, pipe)
            if isinstance(reply, str):
                await self.stop()
                raise StartupError(reply)
            addresses += reply
        return sorted(addresses, key=lambda address: (len(address.name), address.name))

    async def stop(self) -> None:
        for _, pipe in self._children:
            pipe.close()  # a child reads the end of its pipe as "stop"
        for process, _ in self._children:
            await asyncio.to_thread(process.join, STOP_TIMEOUT)
            if process.is_alive():
                process.terminate()


def make_fleet(options: FleetOptions) -> Fleet | SharedFleet:
    """The fleet the options describe, not started (but with ``processes`` above 1, spawned).

    Raises:
        ConfigError: if a number makes no sense or there is no such profile.
    """
    if options.pods < 1 or options.processes < 1 or options.stream_interval < 1 or options.time_scale <= 0:
        raise ConfigError("pods, processes, stream interval and time scale must be above 0")
    pods = [options.pod(index) for index in range(options.pods)]
    return Fleet(pods) if options.processes == 1 else SharedFleet(pods, options.processes)


async def run_fleet(
    options: FleetOptions, on_ready: Callable[[list[PodAddress]], None], stop: asyncio.Event | None = None
) -> None:
    """Run until ``stop`` is set, or SIGTERM or SIGINT comes if no event is given.

    Raises:
        ConfigError, StartupError: if the fleet cannot start.
    """
    if stop is None:
        stop = asyncio.Event()
        loop = asyncio.get_running_loop()
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, stop.set)
    fleet = make_fleet(options)
    on_ready(await fleet.start())
    try:
        await stop.wait()
    finally:
        await fleet.stop()


def _address(pod: SimulatedPod) -> PodAddress:
    source = pod.sources().get("0", {})
    return PodAddress(
        pod.options.name,
        pod.options.host,
        pod.port,
        str(source.get("endpoint", "")).replace("*", pod.options.host),
        str(source.get("replay_endpoint", "")).replace("*", pod.options.host),
    )


def _receive(pipe: Connection) -> list[PodAddress] | str:
    try:
        if not pipe.poll(START_TIMEOUT):
            return "a process of simulated pods did not start in time"
        reply: list[PodAddress] | str = pipe.recv()
    except (EOFError, OSError):
        return "a process of simulated pods ended while starting"
    return reply


def _serve_share(pods: list[PodOptions], pipe: Connection) -> None:
    """Body of a child process."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C reaches the whole group; the parent stops its children
    with asyncio.Runner(loop_factory=uvloop.new_event_loop if uvloop else None) as runner:
        runner.run(_serve_until_closed(pods, pipe))


async def _serve_until_closed(pods: list[PodOptions], pipe: Connection) -> None:
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    loop.add_reader(pipe.fileno(), stop.set)
    loop.add_signal_handler(signal.SIGTERM, stop.set)
    fleet = Fleet(pods)
    try:
        addresses = await fleet.start()
    except PointsmanError as error:
        pipe.send(str(error))
        return
    with contextlib.suppress(BrokenPipeError):
        pipe.send(addresses)
        await stop.wait()
    loop.remove_reader(pipe.fileno())
    await fleet.stop()
