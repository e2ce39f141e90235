"""Leader election against an API server: the loop around an :class:`~pointsman.kube.election.Election`."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from random import Random
from typing import Any

import msgspec

from pointsman.clock import Clock
from pointsman.kube.api import Api, ApiFailure, KubeError
from pointsman.kube.election import Election, LeaseSpec, LeaseTiming, with_spec

RELEASE_S = 2.0
"""Longest time that the end of a picker waits for its lease to be given up."""


class LeaseKeeper:
    """Takes part in an election while it runs."""

    def __init__(
        self,
        api: Api,
        namespace: str,
        name: str,
        identity: str,
        report: Callable[[str], None],
        *,
        clock: Clock,
        rng: Random,
        timing: LeaseTiming | None = None,
    ) -> None:
        """Set up, without asking anything.

        Args:
            api: the server.
            namespace: of the Lease.
            name: its name; made when there is none.
            identity: ours; no two candidates may have the same.
            report: told in words who leads, and what goes wrong.
            clock: real time.
            rng: spreads the candidates' questions.
            timing: waits.
        """
        self._api, self._report = api, report
        self._clock, self._rng = clock, rng
        self._collection = f"/apis/coordination.k8s.io/v1/namespaces/{namespace}/leases"
        self._head = {
            "apiVersion": "coordination.k8s.io/v1",
            "kind": "Lease",
            "metadata": {"name": name, "namespace": namespace},
        }
        self._path = f"{self._collection}/{name}"
        self.election = Election(identity, timing or LeaseTiming())
        self._lease: dict[str, Any] | None = None
        self._task: asyncio.Task[None] | None = None
        self._said = ("", "")

    @property
    def leading(self) -> bool:
        return self.election.leading(self._clock.now())

    async def start(self) -> None:
        """Begin to take part."""
        self._task = asyncio.get_running_loop().create_task(self._run(), name="leader election")

    async def stop(self) -> None:
        """Leave, and give the lease up if it is ours."""
        task, self._task = self._task, None
        if task is None:
            return
        task.cancel()
        await asyncio.wait([task])
        if not self.election.held:
            return
        try:
            async with asyncio.timeout(RELEASE_S):
                await self._release()
        except (KubeError, TimeoutError) as error:
            self._report(f"the lease could not be given up, others wait until it runs out: {error}")

    async def _run(self) -> None:
        retry = self.election.timing.retry
        while True:
            trouble = ""
            try:
                # A server that does not answer must not keep us from noticing that our time is up, nor from retrying.
                async with asyncio.timeout(self.election.timing.renew / 2):
                    await self._step()
            except (KubeError, TimeoutError) as error:
                trouble = str(error) or "no answer in time"
            self._say(trouble)
            await asyncio.sleep(retry * (0.75 + self._rng.random() / 2))

    async def _step(self) -> None:
        self._lease = await self._read()
        now = self._clock.now()
        self.election.observe(_spec(self._lease), now)
        wish = self.election.proposal(now, self._clock.wall())
        if wish is None:
            return
        try:
            await self._write(wish)
        except ApiFailure as error:
            if error.status != 409:  # another one was faster: look again later
                raise
            return
        self.election.written(wish, now)

    async def _release(self) -> None:
        # Read it again: the question that was just cut short may have been answered there, but not here.
        self._lease = await self._read()
        now = self._clock.now()
        self.election.observe(_spec(self._lease), now)
        wish = self.election.release(now, self._clock.wall())
        if wish is not None:
            await self._write(wish)

    async def _read(self) -> dict[str, Any] | None:
        try:
            raw = await self._api.request("GET", self._path)
        except ApiFailure as error:
            if error.status == 404:
                return None
            raise
        return _decode(raw)

    async def _write(self, spec: LeaseSpec) -> None:
        # The version goes along, so that the server takes it only if nobody wrote meanwhile.
        body = msgspec.json.encode(with_spec(self._lease or self._head, spec))
        if self._lease is None:
            raw = await self._api.request("POST", self._collection, body=body)
        else:
            raw = await self._api.request("PUT", self._path, body=body)
        self._lease = _decode(raw)

    def _say(self, trouble: str) -> None:
        said = ("leading" if self.leading else f"standing by, {self.election.holder or 'nobody'} leads", trouble)
        if said != self._said:
            self._said = said
            self._report(": ".join(part for part in said if part))


def _decode(raw: bytes) -> dict[str, Any]:
    try:
        return msgspec.json.decode(raw, type=dict[str, Any])
    except (msgspec.DecodeError, UnicodeError) as error:
        raise ApiFailure(0, "Garbled", f"the lease cannot be read: {error}") from error


def _spec(lease: dict[str, Any] | None) -> LeaseSpec | None:
    try:
        return msgspec.convert(lease.get("spec") or {}, LeaseSpec) if lease is not None else None
    except msgspec.ValidationError:
        return LeaseSpec()  # nobody's
