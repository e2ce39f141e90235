"""Engine gauges by PromQL, from a real Prometheus: the way of those who do not want every picker to scrape every pod.

Such gauges are older than those read directly: by Prometheus's scrape interval (15 s is common) and our period. Each
carries the age of its scrape, the ledger bridges the time since, and an endpoint without a young sample is read
directly until it has one again.
"""

from __future__ import annotations

import asyncio
import math
from collections import Counter
from collections.abc import Callable, Sequence
from typing import Any

from pointsman.api.config import PrometheusConfig
from pointsman.api.endpoint import Endpoint, EndpointId
from pointsman.clock import Clock
from pointsman.datalayer.datastore import Datastore
from pointsman.datalayer.promql_client import PrometheusError, PromqlClient
from pointsman.datalayer.promql_queries import Matcher, Question, Sample, merged, questions, sample_age, sort_answers
from pointsman.framework.observer import Observer

Answers = list[tuple[Question, list[Sample]]]


class PromqlSource:
    """Asks in rounds while it has a configuration; follows the datastore's endpoints."""

    def __init__(
        self,
        datastore: Datastore,
        clock: Clock,
        observer: Observer,
        tell: Callable[[str], None] | None = None,
        *,
        scale: float = 1.0,
    ) -> None:
        """Set up, without asking.

        Args:
            datastore: whose endpoints get the gauges.
            clock: stamps them.
            observer: told of each round.
            tell: told what is wrong, once for each outage.
            scale: seconds of the clock in one real second; the configuration's and Prometheus's are real ones.
        """
        self._datastore, self._clock, self._observer, self._tell = datastore, clock, observer, tell
        self._scale = scale
        self._config: PrometheusConfig | None = None
        self._sampled: dict[EndpointId, float] = {}
        """Seconds of our clock when Prometheus scraped the endpoint last, as far as is known."""
        self._fed: set[EndpointId] = set()
        """Those with young gauges at the end of the last round."""
        self._tasks: set[asyncio.Task[None]] = set()
        self._task: asyncio.Task[None] | None = None
        self._result = self._problem = ""
        self.counts: Counter[str] = Counter()
        """Rounds by result, and ``fell-back``: times an endpoint went over to direct reading."""
        datastore.on_removed(self._forget)

    def use(self, config: PrometheusConfig | None) -> None:
        """Ask as this says from now on; None: not at all. Needs a running event loop."""
        if config == self._config:
            return
        if self._task is not None:
            self._task.cancel()
            self._task = None
        self._config = config
        self._sampled.clear()
        self._fed = set()
        self._result = self._problem = ""
        if config is not None:
            self._task = asyncio.create_task(self._run(config), name="promql")
            self._tasks.add(self._task)
            self._task.add_done_callback(self._tasks.discard)

    async def stop(self) -> None:
        """End. Harmless when not started."""
        self.use(None)
        if self._tasks:
            await asyncio.wait(self._tasks)

    def fresh(self, endpoint_id: EndpointId, now: float) -> bool:
        """Whether Prometheus has gauges of an endpoint that are young enough, so that a direct reading is not needed.

        Args:
            endpoint_id: the endpoint.
            now: seconds of the picker's clock.
        """
        config = self._config
        age = now - self._sampled.get(endpoint_id, -math.inf)
        return config is not None and age <= config.max_age_seconds * self._scale

    def status(self) -> dict[str, Any]:
        """How it goes, for people; empty when off."""
        if self._config is None:
            return {}
        now = self._clock.now()
        fed = sum(self.fresh(endpoint.id, now) for endpoint in self._datastore.all())
        return {
            "url": self._config.url,
            "last_round": self._result or None,
            "problem": self._problem or None,
            "endpoints_fed": fed,
            "endpoints_direct": len(self._datastore.all()) - fed,
            "counts": dict(self.counts),
        }

    async def _run(self, config: PrometheusConfig) -> None:
        client = PromqlClient(config)
        loop = asyncio.get_running_loop()
        try:
            while True:
                due = loop.time() + config.period_seconds
                try:
                    await self._round(config, client)
                except Exception as error:  # noqa: BLE001 whatever Prometheus sends, the next round comes
                    self._note("failed", repr(error))
                await asyncio.sleep(max(0.0, due - loop.time()))
        finally:
            await client.close()

    async def _round(self, config: PrometheusConfig, client: PromqlClient) -> None:
        endpoints = self._datastore.all()
        sent = self._clock.now()
        answers, result, problem = await _ask_all(client, questions(config, endpoints), config.deadline_seconds)
        used = self._apply(config, endpoints, answers, sent)
        if result == "ok" and endpoints and not used:
            problem = f"no endpoint has gauges and a sampledAt younger than {config.max_age_seconds} s"
            result = "empty"
        self._note(result, problem)

    def _note(self, result: str, problem: str) -> None:
        if problem and not self._problem and self._tell is not None:
            self._tell(problem)
        self._result, self._problem = result, problem
        now = self._clock.now()
        endpoints = self._datastore.all()
        fed = {endpoint.id for endpoint in endpoints if self.fresh(endpoint.id, now)}
        self.counts[result] += 1
        self.counts["fell-back"] += len({endpoint.id for endpoint in endpoints} & self._fed - fed)
        self._fed = fed
        self._observer.gauges_asked(result)
        self._observer.gauges_fed(len(fed), len(endpoints) - len(fed))

    def _apply(self, config: PrometheusConfig, endpoints: Sequence[Endpoint], answers: Answers, sent: float) -> int:
        """Take over what is young enough and newer than what is known; says of how many endpoints there was any."""
        used = 0
        for endpoint_id, values in sort_answers(answers, Matcher(endpoints)).items():
            age = sample_age(values)
            if age is None or age > config.max_age_seconds:
                continue
            used += 1
            # Counted from before the question: at most a round-trip too old, never too young.
            sampled = sent - age * self._scale
            self._sampled[endpoint_id] = max(sampled, self._sampled.get(endpoint_id, -math.inf))
            endpoint = self._datastore.get(endpoint_id)
            if endpoint is not None and sampled > endpoint.metrics.updated:
                metrics = merged(endpoint.metrics, values, sampled, config.max_age_seconds * self._scale)
                self._datastore.update_metrics(endpoint_id, metrics)
        return used

    def _forget(self, endpoint: Endpoint) -> None:
        self._sampled.pop(endpoint.id, None)


async def _ask_all(client: PromqlClient, asked: Sequence[Question], deadline: float) -> tuple[Answers, str, str]:
    """What was answered in time, how the round went, and what is wrong in words."""
    loop = asyncio.get_running_loop()
    end = loop.time() + deadline
    try:
        async with asyncio.timeout_at(end):
            await client.open()
    except (PrometheusError, TimeoutError) as error:
        return [], "failed", str(error) or "the files with secrets cannot be read in time"
    if not asked:
        return [], "ok", ""
    tasks = {asyncio.create_task(client.ask(question.query)): question for question in asked}
    try:
        _, late = await asyncio.wait(tasks, timeout=end - loop.time())
    finally:
        for task in tasks:
            task.cancel()
    answers: Answers = []
    problem = ""
    for task, question in tasks.items():
        if task in late:
            continue
        wrong = task.exception()
        if wrong is None:
            answers.append((question, task.result()))
        else:
            problem = f"{question.gauge}: {wrong}"
    if late:
        await asyncio.wait(late)
        problem = f"no answer to {len(late)} of {len(tasks)} queries within {deadline} s"
        return answers, "late", problem
    return answers, "partial" if answers and problem else "failed" if problem else "ok", problem
