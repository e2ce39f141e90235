"""``pointsman pods`` against a real picker in front of a simulated pod, and its table."""

from __future__ import annotations

import asyncio
import io
import json
import threading
from collections.abc import Iterator

import pytest
from rich.console import Console

from pointsman.app.discovery import EndpointOptions
from pointsman.app.picker import Picker, PickerOptions
from pointsman.app.transports import TransportOptions
from pointsman.cli.main import app
from pointsman.cli.pods import ask, facts_of, load_cells, table
from pointsman.errors import ConfigError, StartupError


@pytest.fixture
def admin() -> Iterator[str]:
    """A picker over one pod that is not there, on a thread."""
    ready, loop = threading.Event(), asyncio.new_event_loop()
    picker = Picker(
        PickerOptions(
            endpoints=EndpointOptions(urls=("http://127.0.0.1:9",)), transport=TransportOptions(port=0), admin_port=0
        )
    )
    stopped = asyncio.Event()

    async def main() -> None:
        await picker.start()
        ready.set()
        await stopped.wait()
        await picker.stop(drain=0)

    thread = threading.Thread(target=lambda: loop.run_until_complete(main()))
    thread.start()
    assert ready.wait(10)
    yield f"http://127.0.0.1:{picker.admin_port}"
    loop.call_soon_threadsafe(stopped.set)
    thread.join()
    loop.close()


def test_json_and_table(admin: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert app(["pods", "--admin", admin, "--json"], result_action="return_value") == 0
    (pod,) = json.loads(capsys.readouterr().out)["pods"]
    assert pod["hostport"] == "127.0.0.1:9"
    assert {"healthy", "why", "metrics", "metrics_age_ms", "fresh", "in_flight", "reading", "kv_events"} <= set(pod)
    assert app(["pods", "--admin", f"{admin}/"], result_action="return_value") == 0
    assert "1 pods" in capsys.readouterr().out


def test_nobody_answers(admin: str) -> None:
    with pytest.raises(StartupError, match=r"no picker answers at http://127\.0\.0\.1:1/pods"):
        ask("http://127.0.0.1:1")
    with pytest.raises(StartupError, match="no picker"):
        ask(f"{admin}/nowhere")


@pytest.mark.parametrize(
    ("words", "said"), [(["--every", "0"], "--every"), (["--every", "nan"], "--every"), (["--admin", "x"], "--admin")]
)
def test_refused(words: list[str], said: str) -> None:
    with pytest.raises(ConfigError, match=said):
        app(["pods", *words], result_action="return_value")


def test_help(capsys: pytest.CaptureFixture[str]) -> None:
    app(["pods", "--help"], result_action="return_value")
    text = capsys.readouterr().out
    for flag in ("--admin", "--watch", "--every", "--json"):
        assert flag in text


FULL = {
    "id": "default/a",
    "hostport": "10.0.0.1:8000",
    "healthy": True,
    "metrics_age_ms": 230,
    "fresh": False,
    "metrics": {
        "waiting": 3,
        "running": 8,
        "kv_usage": 0.5,
        "block_size": 16,
        "num_blocks": 1000,
        "prefix_queries": 200.0,
        "prefix_hits": 50.0,
        "engine": "vllm",
        "ranks": 2,
        "source": "orca",
        "models": ["base"],
        "lora": {"running": ["sql"], "available": ["law"]},
        "ttft": {"p50": 0.1, "p95": 0.25, "count": 9},
    },
    "in_flight": {"requests": 5},
    "reading": {"period_s": 0.21},
    "kv_events": {"connected": True, "confidence": 1.0, "lag_ms": 2.0, "blocks": {"gpu": 7, "cpu": 1}},
}


def test_the_rows_of_a_pod() -> None:
    assert load_cells(FULL) == ("a", "ok", "0.2 s *", "3", "8", "50%", "5", "25%", "100/250", "–")
    assert facts_of(FULL) == [
        "10.0.0.1:8000",
        "vllm ×2",
        "1000 blocks × 16 tokens",
        "KV events: 8 blocks, 100% sure, 2 ms behind",
        "read: orca every 0.2 s",
        "base +law +sql",
    ]


def printed(width: int) -> list[str]:
    unknown = {"id": "x", "healthy": False, "why": "[red]no connection", "metrics_age_ms": None}
    console = Console(width=width, file=io.StringIO())
    with console.capture() as capture:
        console.print(table([FULL, unknown]))
    return capture.get().splitlines()


def test_a_pod_of_which_nothing_is_known() -> None:
    text = "\n".join(printed(160))
    assert "2 pods, 1 healthy" in text
    assert "out: [red]no connection" in text
    assert "never" in text


def test_the_load_of_a_pod_is_one_line_of_80_columns() -> None:
    lines = printed(80)
    assert all(len(line) <= 80 for line in lines)
    row = next(line for line in lines if line.strip().startswith("a "))
    assert row.split() == "a ok 0.2 s * 3 8 50% 5 25% 100/250 –".split()  # noqa: SIM905 - as it is shown
