"""The charts of a comparison, made of runs."""

from __future__ import annotations

import itertools
import statistics
from collections.abc import Callable, Mapping, Sequence

from pointsman.lab import html_svg as svg
from pointsman.lab.compare import Comparison
from pointsman.lab.html_svg import Axis, Series
from pointsman.lab.report import Rung
from pointsman.lab.results import LoadSample, Row, percentile

POINTS = 160
"""Most points of a curve, and most columns of a heat map."""
WINDOWS = 40
"""Stretches of time over which a hit rate is taken."""
Styles = Mapping[str, int]
"""Each policy's number."""


def ladder_charts(rungs: Sequence[Rung], styles: Styles) -> list[str]:
    """How each policy does as the load grows."""
    loads = svg.axis("requests per second", [rung.qps or 0 for rung in rungs])

    def over(pick: Callable[[Comparison], float | None], best: Callable[[Comparison], float] | None) -> list[Series]:
        found = [
            Series(name, styles[name], _over_rungs(rungs, name, pick), marks=True)
            for name in styles
            if any(name in rung.policies for rung in rungs)
        ]
        if best is not None:
            found.append(Series("at best", -1, [(rung.qps or 0, best(rung.first)) for rung in rungs]))
        return found

    slow = over(lambda run: _ttft_percentile(run, 0.95), _alone_p95)
    fast = over(lambda run: _number(run, "output_tokens_per_s"), None)
    hits = over(lambda run: _number(run, "hit_rate"), lambda run: run.best.rate(run.best.lru_tokens))
    tpot = over(_tpot, None)
    return [
        _line_chart("Time to first token, P95", loads, "milliseconds", slow, log=True),
        _line_chart("Throughput", loads, "output tokens per second", fast),
        _line_chart("Cache hit rate", loads, "share of prompt tokens", hits, percent=True),
        _line_chart("Time per output token, mean", loads, "milliseconds", tpot),
    ]


def rung_charts(rung: Rung, styles: Styles) -> list[str]:
    """One load in detail."""
    runs = {name: own[0] for name, own in rung.policies.items()}
    found = [_cdf(rung, styles), _pareto(rung, styles), _hits_over_time(runs, styles), _pods_apart(runs, styles)]
    highest = max((max(_loads(sample), default=0) for run in runs.values() for sample in run.result.load), default=0)
    for name, run in runs.items():
        found += [_load_lines(name, run, styles[name], highest), _load_map(name, run, highest)]
    return [one for one in found if one]


def _cdf(rung: Rung, styles: Styles) -> str:
    """Share of requests whose first token came within a time; all seeds together."""
    series = []
    for name, runs in rung.policies.items():
        times = sorted(row.ttft_ms for run in runs for row in _done(run))
        if times:
            shares = [number / POINTS for number in range(POINTS + 1)]
            series.append(Series(name, styles[name], [(percentile(times, share), share) for share in shares]))
    x = svg.axis("milliseconds", [a for one in series for a, _ in one.points], log=True)
    y = Axis("share of requests", 0.0, 1.0, percent=True)
    return svg.chart("Time to first token", x, y, svg.lines(x, y, series), "share of requests answered within a time")


def _pareto(rung: Rung, styles: Styles) -> str:
    """Speed for those who wait against work done: policies that no other beats in both are joined."""
    places = []
    for name, runs in rung.policies.items():
        waits = [value for run in runs if (value := _ttft_percentile(run, 0.95)) is not None]
        if waits:
            rate = statistics.fmean(_number(run, "output_tokens_per_s") or 0.0 for run in runs)
            places.append(Series(name, styles[name], [(statistics.fmean(waits), rate)]))
    x = svg.axis("time to first token, P95, milliseconds", [one.points[0][0] for one in places], log=True)
    y = svg.axis("output tokens per second", [one.points[0][1] for one in places])
    best = Series("not beaten in both", -1, pareto_front([one.points[0] for one in places]), stairs=True)
    body = svg.lines(x, y, [best]) + svg.scatter(x, y, places)
    return svg.chart("Pareto front", x, y, body, "up and left is better; the line joins what nothing beats in both")


def pareto_front(points: Sequence[tuple[float, float]]) -> list[tuple[float, float]]:
    """Points with no other at most as far right and at least as high, from left to right."""
    front: list[tuple[float, float]] = []
    for a, b in sorted(points, key=lambda point: (point[0], -point[1])):
        if not front or b > front[-1][1]:
            front.append((a, b))
    return front


def _hits_over_time(runs: Mapping[str, Comparison], styles: Styles) -> str:
    end = max((run.result.duration for run in runs.values()), default=0.0) or 1.0
    series = [
        Series(name, styles[name], _hit_rates(_done(run), end), stairs=True) for name, run in runs.items() if _done(run)
    ]
    x = svg.axis("seconds", [a for one in series for a, _ in one.points])
    y = Axis("share of prompt tokens", 0.0, 1.0, percent=True)
    return svg.chart("Cache hit rate over time", x, y, svg.lines(x, y, series), "by time of arrival")


def _hit_rates(rows: Sequence[Row], end: float) -> list[tuple[float, float]]:
    """Hit rate of each window in which something arrived, at the window's start."""
    width = end / WINDOWS
    hits, prompts = [0] * (WINDOWS + 1), [0] * (WINDOWS + 1)
    for row in rows:
        window = min(WINDOWS, int(row.arrival / width))
        hits[window] += row.cached_tokens
        prompts[window] += row.prompt_tokens
    return [(number * width, hits[number] / prompts[number]) for number in range(WINDOWS + 1) if prompts[number]]


def _pods_apart(runs: Mapping[str, Comparison], styles: Styles) -> str:
    """Busiest pod of every moment, by policy."""
    series = [
        Series(name, styles[name], [(at, max(loads)) for at, loads in _thinned(run.result.load) if loads])
        for name, run in runs.items()
    ]
    return _line_chart("Load of the busiest pod", None, "requests running and waiting", series, x_label="seconds")


def _load_lines(name: str, run: Comparison, style: int, highest: float) -> str:
    thinned = _thinned(run.result.load)
    pods = max((len(loads) for _, loads in thinned), default=0)
    series = [
        Series(f"pod {pod}", style, [(at, loads[pod]) for at, loads in thinned if pod < len(loads)])
        for pod in range(pods)
    ]
    x, y = svg.axis("seconds", [at for at, _ in thinned]), svg.axis("requests running and waiting", [highest])
    return svg.chart(f"Load of each pod: {name}", x, y, svg.lines(x, y, series, thin=True), "one line per pod")


def _load_map(name: str, run: Comparison, highest: float) -> str:
    thinned = _thinned(run.result.load)
    pods = max((len(loads) for _, loads in thinned), default=0)
    if not pods:
        return ""
    end = run.result.load[-1].at or 1.0
    rows = [[loads[pod] if pod < len(loads) else 0.0 for _, loads in thinned] for pod in range(pods)]
    x, y = Axis("seconds", 0.0, end), svg.row_axis("pod", pods)
    note = f"requests running and waiting on each pod; the darkest is {highest:,.0f}"
    return svg.chart(f"Heat map of the load: {name}", x, y, svg.heat_map(rows, highest), note)


def _thinned(samples: Sequence[LoadSample]) -> list[tuple[float, list[float]]]:
    """At most :data:`POINTS` moments, each the mean over its stretch of samples, by pod."""
    size = max(1, -(-len(samples) // POINTS))
    found = []
    for start in range(0, len(samples), size):
        part = [_loads(sample) for sample in samples[start : start + size]]
        columns = itertools.zip_longest(*part, fillvalue=0)
        found.append((samples[start].at, [sum(column) / len(part) for column in columns]))
    return found


def _line_chart(
    title: str,
    x: Axis | None,
    y_label: str,
    series: Sequence[Series],
    *,
    x_label: str = "",
    log: bool = False,
    percent: bool = False,
) -> str:
    x = x or svg.axis(x_label, [a for one in series for a, _ in one.points])
    y = svg.axis(y_label, [b for one in series for _, b in one.points], log=log, percent=percent)
    return svg.chart(title, x, y, svg.lines(x, y, series))


def _over_rungs(
    rungs: Sequence[Rung], policy: str, pick: Callable[[Comparison], float | None]
) -> list[tuple[float, float]]:
    points = []
    for rung in rungs:
        values = [value for run in rung.policies.get(policy, ()) if (value := pick(run)) is not None]
        if values:
            points.append((rung.qps or 0.0, statistics.fmean(values)))
    return sorted(points)


def _done(run: Comparison) -> list[Row]:
    return [row for row in run.result.measured() if row.ok]


def _loads(sample: LoadSample) -> list[int]:
    return [running + waiting for running, waiting in zip(sample.running, sample.waiting, strict=True)]


def _number(run: Comparison, name: str) -> float | None:
    value = run.result.summary()[name]
    return value if isinstance(value, int | float) else None


def _ttft_percentile(run: Comparison, share: float) -> float | None:
    times = sorted(row.ttft_ms for row in _done(run))
    return percentile(times, share) if times else None


def _tpot(run: Comparison) -> float | None:
    values = [value for row in _done(run) if (value := row.tpot_ms) is not None]
    return statistics.fmean(values) if values else None


def _alone_p95(run: Comparison) -> float:
    return (run.best.ttft.alone_ms["p95"] or 0.0) if run.best.ttft else 0.0
