"""``pointsman metrics parse``."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated, Any

from cyclopts import App, Parameter
from rich.console import Console
from rich.table import Table

from pointsman.cli.common import print_json
from pointsman.datalayer.engine_configs import engines_with, find_engine, read_engine_configs
from pointsman.datalayer.engines import ENGINES, Engine, Engines, detect_engine
from pointsman.datalayer.metrics_page import parse_page
from pointsman.datalayer.reading import Histogram, RankReading, Reading
from pointsman.errors import ConfigError
from pointsman.framework.yaml_lines import load_yaml

metrics_app = App(name="metrics", help="Look into the metrics pages of engines.")

AUTO = "auto"
STDIN = "-"


@metrics_app.command
def parse(
    file: Annotated[str, Parameter(allow_leading_hyphen=True)],
    /,
    *,
    engine: str = AUTO,
    engine_configs: Path | None = None,
    json: Annotated[bool, Parameter(negative=())] = False,
) -> int:
    """Print what a saved metrics page says, for each data-parallel rank: what the picker would read from it.

    ```console
    pointsman metrics parse page.txt
    curl -s http://10.0.0.1:8000/metrics | pointsman metrics parse - --json
    pointsman metrics parse page.txt --engine-configs engines.yaml --engine atom
    ```

    Latencies are of all requests since the engine started; the picker takes those between two readings.

    Parameters
    ----------
    file
        The page in Prometheus' or OpenMetrics' text format; - for standard input.
    engine
        Whose page it is: vllm, sglang, trtllm-serve, triton-tensorrt-llm, triton, llama.cpp, tgi, one of
        --engine-configs, or auto to find out.
    engine_configs
        YAML file with engines of your own, under engineConfigs as llm-d's core-metrics-extractor has them.
    json
        Print JSON.
    """
    reading = _reading(file, engine, ENGINES if engine_configs is None else _custom(engine_configs))
    if json:
        print_json(as_data(reading))
    else:
        _show(reading)
    return 0


def as_data(reading: Reading) -> dict[str, Any]:
    """A reading as it is printed: seconds for times, tokens for prefix hits and queries."""
    return {
        "engine": reading.engine,
        "ranks": [_rank(rank) for rank in reading.ranks],
        "skipped": reading.skipped,
    }


def _rank(rank: RankReading) -> dict[str, Any]:
    lora = rank.lora
    return {
        "rank": rank.rank,
        "waiting": rank.waiting,
        "running": rank.running,
        "kv_usage": rank.kv_usage,
        "block_size": rank.block_size,
        "num_blocks": rank.num_blocks,
        "max_num_seqs": rank.max_num_seqs,
        "lora": {"max": lora.capacity, "running": sorted(lora.running), "waiting": sorted(lora.waiting)},
        "prefix_hits": rank.prefix_hits,
        "prefix_queries": rank.prefix_queries,
        "ttft": _latency(rank.ttft),
        "itl": _latency(rank.itl),
    }


def _latency(histogram: Histogram | None) -> dict[str, float | None] | None:
    if histogram is None:
        return None
    seen = histogram.count > 0
    return {
        "count": histogram.count,
        "sum": histogram.total,
        "p50": histogram.quantile(0.5) if seen else None,
        "p95": histogram.quantile(0.95) if seen else None,
    }


def _reading(file: str, engine: str, engines: Engines) -> Reading:
    chosen = _engine(engine, engines)
    page, source = _read(file)
    reading = parse_page(page, chosen, engines=engines)
    if reading is None:
        raise _nothing(page, source, chosen, engines)
    return reading


def _engine(name: str, engines: Engines) -> Engine | None:
    if name == AUTO:
        return None
    found = find_engine(name, engines)
    if found is None:
        known = ", ".join([AUTO, *(each.name for each in engines)])
        raise ConfigError(f"{name!r} is no engine", field="--engine", hint=f"known: {known}")
    return found


def _custom(path: Path) -> Engines:
    source = str(path)
    try:
        data = load_yaml(path.read_text("utf-8", "replace"), source).data
    except OSError as error:
        raise ConfigError(f"cannot be read: {error.strerror}", source=source) from error
    try:
        return engines_with(read_engine_configs(data.get("engineConfigs") if isinstance(data, dict) else data))
    except ConfigError as error:
        raise error.at(source) from error


def _read(file: str) -> tuple[str, str]:
    """The page's text, bytes that are no UTF-8 replaced, and what to call it."""
    if file == STDIN:
        return sys.stdin.buffer.read().decode("utf-8", "replace"), "standard input"
    try:
        return Path(file).read_bytes().decode("utf-8", "replace"), file
    except OSError as error:
        raise ConfigError(f"cannot be read: {error.strerror}", source=file) from error


def _nothing(page: str, source: str, chosen: Engine | None, engines: Engines) -> ConfigError:
    found = detect_engine(page, engines)
    if chosen is None and found is None:
        known = ", ".join(engine.name for engine in engines)
        return ConfigError("no engine's metrics page", source=source, hint=f"known engines: {known}")
    if chosen is None or chosen is found:
        name = found.name if found else ""
        return ConfigError(f"a page of {name} without requests waiting, running or KV usage", source=source)
    hint = f"it looks like {found.name}" if found else None
    return ConfigError(f"nothing of {chosen.name} on this page", source=source, hint=hint)


def _show(reading: Reading) -> None:
    """A row for each quantity and a column for each rank."""
    table = Table("", *(f"rank {rank.rank}" for rank in reading.ranks), box=None, pad_edge=False)
    columns = [_cells(rank) for rank in reading.ranks]
    for name in columns[0]:
        table.add_row(name, *(cells[name] for cells in columns))
    console = Console(highlight=False, soft_wrap=True, markup=False)
    console.print(f"engine {reading.engine}, {reading.skipped} lines skipped")
    console.print(table)


def _cells(rank: RankReading) -> dict[str, str]:
    lora = rank.lora
    adapters = f"{len(lora.running)} running, {len(lora.waiting)} waiting, {lora.capacity} fit"
    return {
        "requests waiting": str(rank.waiting),
        "requests running": str(rank.running),
        "at most": _or_unknown(rank.max_num_seqs),
        "KV cache used": f"{rank.kv_usage:.1%}",
        "KV blocks": f"{_or_unknown(rank.num_blocks)} of {_or_unknown(rank.block_size)} tokens",
        "prefix cache hits": f"{rank.prefix_hits:.0f} of {rank.prefix_queries:.0f} tokens",
        "LoRA adapters": adapters if lora.capacity or lora.running or lora.waiting else "-",
        "TTFT p50 / p95": _quantiles(rank.ttft),
        "ITL p50 / p95": _quantiles(rank.itl),
    }


def _or_unknown(value: int | None) -> str:
    return "?" if value is None else str(value)


def _quantiles(histogram: Histogram | None) -> str:
    if histogram is None or histogram.count <= 0:
        return "-"
    return f"{histogram.quantile(0.5) * 1000:.0f} / {histogram.quantile(0.95) * 1000:.0f} ms"
