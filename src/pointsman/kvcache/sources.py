"""Where engines publish their events: what ``/kv_event_sources``, SGLang's ``/server_info`` and topics say."""

from __future__ import annotations

from typing import Any

import msgspec

_WILDCARDS = frozenset({"*", "0.0.0.0", "::", "[::]"})  # noqa: S104 - recognised, never bound to
_LOOPBACK = frozenset({"127.0.0.1", "localhost", "::1", "[::1]"})
MAX_RANKS = 1024


class EventSource(msgspec.Struct, frozen=True):
    """One publisher: an engine's data-parallel rank."""

    endpoint: str
    """To subscribe to, such as ``tcp://10.0.0.7:5557``."""
    replay: str = ""
    """To ask for earlier batches; empty when the engine keeps none."""
    rank: int = 0
    topic: str = ""
    """Prefix of topics wanted; empty for all."""


def sources_of(answer: Any, host: str) -> tuple[EventSource, ...]:
    """Publishers of a pod from the JSON of vLLM's ``/kv_event_sources`` or SGLang's ``/server_info``.

    Args:
        answer: decoded JSON; whatever is not understood is left out.
        host: address of the pod, for endpoints that were bound to any address.
    """
    if not isinstance(answer, dict):
        return ()
    events = answer.get("kv_events")
    if isinstance(events, dict):
        return _sglang(events, host)
    found = (_vllm(rank, source, host) for rank, source in answer.items() if isinstance(source, dict))
    return tuple(source for source in found if source)


def port_sources(host: str, port: int, replay_port: int = 0, ranks: int = 1) -> tuple[EventSource, ...]:
    """Publishers by convention: one port per data-parallel rank, counted up from a first."""
    return tuple(
        EventSource(_tcp(host, port + rank), _tcp(host, replay_port + rank) if replay_port else "", rank)
        for rank in range(ranks)
    )


def parse_topic(topic: bytes) -> tuple[str, str] | None:
    """Pod and model of a topic like ``kv@<pod>@<model>``; None for any other."""
    parts = topic.decode(errors="replace").split("@", 2)
    if len(parts) < 2 or parts[0] != "kv" or not parts[1]:
        return None
    return parts[1], parts[2] if len(parts) > 2 else ""


def _vllm(rank: Any, source: dict[str, Any], host: str) -> EventSource | None:
    endpoint = _reachable(source.get("endpoint"), host)
    enabled = source.get("enable_kv_cache_events", True) and source.get("publisher", "zmq") == "zmq"
    if not endpoint or not enabled or not str(rank).isdecimal() or len(str(rank)) > 4:
        return None
    keeps = source.get("buffer_steps") != 0
    topic = source.get("topic")
    replay = _reachable(source.get("replay_endpoint"), host) if keeps else ""
    return EventSource(endpoint, replay, int(rank), topic if isinstance(topic, str) else "")


def _sglang(events: dict[str, Any], host: str) -> tuple[EventSource, ...]:
    port, replay, ranks = (
        value if isinstance(value, int) and 0 < value < 65_536 else 0
        for value in (events.get("endpoint_port_base"), events.get("replay_endpoint_port_base"), events.get("dp_size"))
    )
    said = events.get("endpoint_host")
    if not port or events.get("publisher", "zmq") != "zmq":
        return ()
    there = said if isinstance(said, str) and said and said not in _WILDCARDS | _LOOPBACK else host
    topic = events.get("topic")
    sources = port_sources(there, port, replay, min(ranks or 1, MAX_RANKS))
    return tuple(msgspec.structs.replace(one, topic=topic if isinstance(topic, str) else "") for one in sources)


def _reachable(endpoint: Any, host: str) -> str:
    """The endpoint as seen from here; empty when it cannot be reached."""
    if not isinstance(endpoint, str) or not endpoint.startswith("tcp://"):
        return ""
    name, colon, port = endpoint.removeprefix("tcp://").rpartition(":")
    if not colon or not port.isdecimal() or not 0 < int(port) < 65_536:
        return ""
    if name in _WILDCARDS:
        return _tcp(host, int(port))
    if name in _LOOPBACK and host not in _LOOPBACK:
        return ""  # bound where only the pod itself comes
    return endpoint


def _tcp(host: str, port: int) -> str:
    return f"tcp://[{host}]:{port}" if ":" in host and not host.startswith("[") else f"tcp://{host}:{port}"
