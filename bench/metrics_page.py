"""Reading an engine's metrics page: each recorded page, ours against prometheus_client's full parser in the same run.

    python bench/metrics_page.py

"load" is what every reading needs (gauges, cache, adapters, prefix counters), "all" has both latency histograms too.
"cold" is the first page of a pod whose labels were never seen. Milliseconds, the best of seven rounds. The last rows
are hostile or huge, 4 MB each.
"""

from __future__ import annotations

import timeit
from collections.abc import Callable
from pathlib import Path

from prometheus_client.parser import text_string_to_metric_families

from pointsman.datalayer import metrics_lines
from pointsman.datalayer.engines import VLLM
from pointsman.datalayer.metrics_page import parse_page

DATA = Path(__file__).parents[1] / "tests" / "data"
HOSTILE = 4 * 1024 * 1024


def milliseconds(work: Callable[[], object], number: int) -> float:
    return min(timeit.repeat(work, number=number, repeat=7)) / number * 1000


def cold(page: str) -> object:
    metrics_lines.forget_labels()
    return parse_page(page)


def row(name: str, page: str, number: int, *, full: bool = True) -> None:
    load = milliseconds(lambda: parse_page(page, histograms=False), number)
    every = milliseconds(lambda: parse_page(page), number)
    first = milliseconds(lambda: cold(page), number)
    print(f"{name:28} {len(page) / 1000:7.1f} {load:8.3f} {every:8.3f} {first:8.3f}", end="")
    if full:
        other = milliseconds(lambda: list(text_string_to_metric_families(page)), 3)
        print(f" {other:10.2f} {other / every:6.0f}x", end="")
    print()


def main() -> None:
    print(f"{'page':28} {'KB':>7} {'load':>8} {'all':>8} {'cold':>8} {'full':>10}  ratio")
    for path in sorted((DATA / "captures").glob("metrics_*.txt")):
        row(path.stem, path.read_text(), 100)
    one = (DATA / "captures" / "metrics_a_loaded_0.txt").read_text()
    row("four ranks on one port", "".join(one.replace('engine="0"', f'engine="{rank}"') for rank in range(4)), 50)
    start = "vllm:num_requests_waiting 1\n"
    wanted = VLLM.waiting[0].name
    row("hostile: one series", start * (HOSTILE // len(start)), 1, full=False)
    lines = (f'{wanted}{{engine="{number}"}} 1\n' for number in range(HOSTILE // 40))
    row("hostile: a rank each line", "".join(lines), 1, full=False)
    row("hostile: garbage", start + f'{wanted}{{a="\n' * (HOSTILE // 30), 1, full=False)
    row("hostile: one long line", start + wanted + '{a="b",' * (HOSTILE // 7), 1, full=False)
    row("huge: nothing wanted", start + 'other_metric{label="value"} 1.0\n' * (HOSTILE // 32), 1, full=False)


if __name__ == "__main__":
    main()
