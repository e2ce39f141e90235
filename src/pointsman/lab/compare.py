"""Runs many policies, loads and seeds side by side in processes, and judges each by what was achievable.

A run depends on its inputs alone, so where it runs does not matter: one process or eight, the results are the same but
for the wall time.
"""

from __future__ import annotations

import multiprocessing
import os
import signal
import threading
from collections.abc import Callable, Sequence
from concurrent.futures import Future, ProcessPoolExecutor, as_completed
from concurrent.futures.process import BrokenProcessPool
from multiprocessing.connection import Connection

import msgspec

from pointsman.errors import StartupError
from pointsman.framework.plan import Plan
from pointsman.lab.compare_specs import RunSpec
from pointsman.lab.indices import Indices, indices_of
from pointsman.lab.oracle import Achievable, Oracle, Watched, achievable_of_run
from pointsman.lab.policies import policy_source
from pointsman.lab.requests import FixedWorkload
from pointsman.lab.results import RunResult
from pointsman.lab.runner import Run
from pointsman.plugins.producers.precise_prefix_cache import PrecisePrefixCacheProducer

Progress = Callable[[int, int, str], None]
"""Told of every run that ended: how many have, of how many, and which it was."""


class Comparison(msgspec.Struct, frozen=True):
    """A run and how good it is."""

    spec: RunSpec
    result: RunResult
    best: Achievable
    indices: Indices

    @property
    def share_of_achievable(self) -> float | None:
        """Prompt tokens found in a cache, over those an ideal shared LRU finds; None when that finds none."""
        hits = sum(row.cached_tokens for row in self.result.measured() if row.ok)
        return hits / self.best.lru_tokens if self.best.lru_tokens else None

    @property
    def ttft_over_bound(self) -> float | None:
        """Mean time to first token over its lower bound; None when nothing was answered."""
        times = [row.ttft_ms for row in self.result.measured() if row.ok]
        if self.best.ttft is None or not times:
            return None
        return sum(times) / len(times) / self.best.ttft.mean_ms

    def figures(self) -> dict[str, object]:
        """Everything about the run in figures, for tables and scripts."""
        return {
            **self.result.summary(),
            "share_of_achievable": self.share_of_achievable,
            "ttft_over_bound": self.ttft_over_bound,
            "indices": msgspec.to_builtins(self.indices),
            "degraded": dict(self.result.degraded),
            "plugin_failures": dict(self.result.failures),
        }


def judged(spec: RunSpec) -> Comparison:
    """Run once and judge it.

    Raises:
        ConfigError: if policy or workload cannot be used.
    """
    oracle = Oracle(spec.options.profile.block_size)
    source, workload = policy_source(spec.policy), Watched(spec.workload.open(), oracle)
    run = Run(source, workload, spec.options)
    if spec.options.events and not listens(run.director.plan):
        # A live picker would not even subscribe; not to make the events saves a third of the time.
        run = Run(source, workload, msgspec.structs.replace(spec.options, events=False))
    result = run.run()
    result.policy = spec.policy
    best = achievable_of_run(oracle, result.rows, spec.options)
    return Comparison(spec, result, best, indices_of(result, best, spec.options.scrape_period))


def listens(plan: Plan) -> bool:
    """Whether a plan takes note of KV-cache events."""
    return any(isinstance(plugin, PrecisePrefixCacheProducer) for plugin in plan.plugins.values())


def check(specs: Sequence[RunSpec]) -> None:
    """Refuse what could not be run, before anything is.

    Raises:
        ConfigError: if a policy cannot be built, or a workload cannot be opened or has no request.
    """
    for policy, options in {spec.policy: spec.options for spec in specs}.items():
        Run(policy_source(policy), FixedWorkload("none", ()), options)
    seen: list[object] = []
    for spec in specs:
        if spec.workload not in seen:
            seen.append(spec.workload)
            next(spec.workload.open().requests(), None)


def compare(specs: Sequence[RunSpec], jobs: int = 0, progress: Progress | None = None) -> list[Comparison]:
    """Run everything and judge it, several at a time.

    With more than one job, scripts need the usual ``if __name__ == "__main__":``, as processes are spawned.

    Args:
        specs: the runs; checked before the first begins.
        jobs: processes; 0: as many as there are cores; 1: in this one.
        progress: told of every run that ended.

    Returns:
        In the order of the specs.

    Raises:
        ConfigError: if a run cannot be made; the others are given up.
        StartupError: if a process died.
        KeyboardInterrupt: on Ctrl-C; no process is left behind.
    """
    check(specs)
    jobs = min(jobs or os.cpu_count() or 1, len(specs))
    tell = progress or (lambda _done, _total, _label: None)
    if jobs > 1:
        try:
            return _in_processes(specs, jobs, tell)
        except BrokenProcessPool as error:
            raise StartupError("a process was ended from outside; if memory ran out, fewer jobs need less") from error
    results = []
    for spec in specs:
        results.append(judged(spec))
        tell(len(results), len(specs), spec.label)
    return results


def _in_processes(specs: Sequence[RunSpec], jobs: int, progress: Progress) -> list[Comparison]:
    context = multiprocessing.get_context("spawn")
    theirs, ours = context.Pipe(duplex=False)
    pool = ProcessPoolExecutor(jobs, mp_context=context, initializer=_at_home, initargs=(theirs,))
    try:
        # The highest load first: it takes longest, and a long run begun last would leave the other cores idle.
        order = sorted(range(len(specs)), key=lambda number: -(specs[number].workload.qps or 0.0))
        futures = {pool.submit(judged, specs[number]): number for number in order}
        done: list[tuple[int, Comparison]] = []
        for future in as_completed(futures):
            done.append(_taken(future, futures))
            progress(len(done), len(specs), specs[done[-1][0]].label)
    except BaseException:
        ours.close()  # ends the processes, in the middle of a run
        pool.shutdown(wait=True, cancel_futures=True)
        raise
    pool.shutdown()
    ours.close()
    theirs.close()
    return [comparison for _, comparison in sorted(done, key=lambda one: one[0])]


def _taken(future: Future[Comparison], numbers: dict[Future[Comparison], int]) -> tuple[int, Comparison]:
    """A result and its number; forgotten by the pool, so that it is held once."""
    return numbers.pop(future), future.result()


def _at_home(home: Connection) -> None:
    """In a new process: Ctrl-C is the parent's business, and without a parent there is nothing to do."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)

    def watch() -> None:
        home.poll(None)  # until the other end is closed, by intent or because the parent is gone
        os._exit(1)

    threading.Thread(target=watch, daemon=True).start()
