"""Conversations: chats between people and models, and agents with their tools. Closed loop.

A turn's prompt is the one before, the answer, and what is new. The answer is the one simulated engines give, token for
token, so that the next prompt finds it in their caches, as with a real template.
"""

from __future__ import annotations

import math
from array import array
from collections.abc import Iterator
from random import Random

import msgspec

from pointsman.lab.requests import LabRequest
from pointsman.lab.workloads.arrivals import Stage, ladder
from pointsman.lab.workloads.tokens import Texts, lognormal
from pointsman.sim.tokens import answer_ids, answer_offset


class Lengths(msgspec.Struct, frozen=True):
    """A log-normal length within bounds."""

    median: float
    p95: float
    low: int
    high: int

    def draw(self, rng: Random) -> int:
        """One."""
        return lognormal(rng, self.median, self.p95, self.low, self.high)


class Shape(msgspec.Struct, frozen=True, kw_only=True):
    """What conversations are like; lengths in tokens.

    Attributes:
        name: of the workload.
        qps: requests per second unless told otherwise, thinking and answering not counted.
        systems: different system prompts, the first the most frequent (Zipf, exponent 1).
        system: length of those.
        first: what comes behind the system prompt at first.
        more: what each turn adds.
        output: of an answer.
        turns: mean number of requests of a session (geometric).
        think_median: seconds from an answer to the next request.
        think_p95: its 95th percentile.
        think_max: seconds.
        longest: a session ends before a prompt and its answer are longer than that.
    """

    name: str
    qps: float
    systems: int
    system: int
    first: Lengths
    more: Lengths
    output: Lengths
    turns: float
    think_median: float
    think_p95: float
    think_max: float
    longest: int = 40_000


CHAT = Shape(
    name="chat",
    qps=10.0,
    systems=8,
    system=1000,
    first=Lengths(150, 1500, 10, 8000),
    more=Lengths(80, 600, 5, 4000),
    output=Lengths(250, 900, 10, 2000),
    turns=5.0,
    think_median=12.0,
    think_p95=90.0,
    think_max=300.0,
)
"""Shapes are assumptions of ours, of the order of the public chat traces; thinking is reading and typing."""

AGENTIC = Shape(
    name="agentic",
    qps=5.0,
    systems=3,
    system=4000,
    first=Lengths(2000, 8000, 200, 16_000),
    more=Lengths(400, 3000, 20, 12_000),
    output=Lengths(216, 1554, 20, 3700),  # as in 70 recorded coding sessions, p50 and p95
    turns=46.0,  # idem, p50
    think_median=10.0,  # idem
    think_p95=445.0,  # idem
    think_max=600.0,
)
"""Prompts are a quarter of those recorded, for engines with a context of 40,960 tokens: a session ends there."""

SESSIONS_OVER = 300.0
"""Seconds over which sessions start."""


class Conversations:
    """Sessions that start at random, each request behind the answer before it and some thinking.

    Args:
        shape: of the sessions.
        qps: requests per second that the starts are made for: sessions start at ``qps`` / turns. Waiting for answers
            and thinking spread the requests of a session over time, so the rate builds up.
        seed: of everything.
        scale: factor on the time over which sessions start.
    """

    def __init__(self, shape: Shape, *, qps: float | None = None, seed: int = 0, scale: float = 1.0) -> None:
        self.name = shape.name
        self._shape, self._seed = shape, seed
        self._stage = Stage((qps or shape.qps) / shape.turns, SESSIONS_OVER * scale)
        self._texts = Texts(seed)

    def requests(self) -> Iterator[LabRequest]:
        """First requests of sessions, sorted by arrival."""
        shape = self._shape
        for session, (at, _) in enumerate(ladder([self._stage], Random(f"{self.name}/{self._seed}/times"))):
            rng = self._rng(session, 0)
            system = int((shape.systems + 1) ** rng.random()) - 1  # log-uniform: near enough to Zipf
            tokens = self._texts.shared(f"system {system}", shape.system)
            tokens = tokens + self._texts.own(f"{session}/0", shape.first.draw(rng))
            yield self._request(session, 0, at, tokens, rng)

    def follow(self, done: LabRequest, now: float) -> LabRequest | None:
        """The session's next request, unless it has ended."""
        shape = self._shape
        session, turn = (int(part) for part in done.id.split("-"))
        turn += 1
        rng = self._rng(session, turn)
        if rng.random() < 1 / shape.turns:
            return None
        answer = answer_ids(answer_offset(done.tokens), 0, done.max_tokens)
        tokens = done.tokens + answer + self._texts.own(f"{session}/{turn}", shape.more.draw(rng))
        sigma = math.log(shape.think_p95 / shape.think_median) / 1.645
        think = min(shape.think_max, rng.lognormvariate(math.log(shape.think_median), sigma))
        request = self._request(session, turn, now + think, tokens, rng)
        return request if len(tokens) + request.max_tokens <= shape.longest else None

    def _rng(self, session: int, turn: int) -> Random:
        """Of its own for each turn: what it draws does not depend on when answers come."""
        return Random(f"{self.name}/{self._seed}/{session}/{turn}")

    def _request(self, session: int, turn: int, at: float, tokens: array[int], rng: Random) -> LabRequest:
        return LabRequest(
            id=f"{session}-{turn}",
            arrival=at,
            tokens=tokens,
            max_tokens=self._shape.output.draw(rng),
            session=f"s{session}",
        )
