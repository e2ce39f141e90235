"""Situations in which routers have gone wrong, each a test of behaviour with a criterion and a number.

    python bench/policy_traps.py                                 # every policy: about ten minutes on two cores
    python bench/policy_traps.py --policies default llm-d --traps hot-pod scale-out
    python bench/policy_traps.py --json | jq .default

A trap is a function that plays one policy and answers whether it passed and by what number. Criteria are absolute, or
relative to the same policy without the trouble; none is relative to another policy. Those that take less than three
seconds are tests as well: tests/lab/test_traps.py.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import os
from collections.abc import Callable, Mapping
from concurrent.futures import ProcessPoolExecutor
from types import MappingProxyType
from typing import NamedTuple

import msgspec
from contest.trap_workloads import between, fullest, hits, ids, played, poisson, prefix_of, question, ttft, unevenness

from pointsman.lab.options import Fault, FleetOptions
from pointsman.lab.policies import POLICIES, policy_source
from pointsman.lab.requests import LabRequest
from pointsman.lab.workloads.arrivals import Stage

FLEET = FleetOptions()
OURS = ("default", "precise")


class Verdict(NamedTuple):
    """Of one policy in one trap."""

    passed: bool
    number: str


def idle_fleet(policy: str) -> Verdict:
    """16 prefixes, one after the other, on 8 idle pods: no pod gets more than 4, and the second round finds them."""
    order = [*range(16), *reversed(range(16))]  # not again in turn, or whoever takes pods in turn would find them
    requests = [question(n, 3.0 * n, f"p{prefix}", (3000, 100, 50)) for n, prefix in enumerate(order)]
    rows = played(policy, requests, FLEET).rows
    most, found = fullest(rows[:16]), hits(rows[16:])
    return Verdict(most <= 4 and found >= 0.9, f"{most} on the fullest, then {found:.0%} hits")


def hot_pod(policy: str) -> Verdict:
    """A prefix that needs more than a pod: the 24 others keep 80 % hits, waits stay short.

    Its answers are long, so that a pod that gets all of it has hundreds in flight: a router that gives up affinity as
    soon as any two pods differ gives it up for everybody.
    """
    others = [f"p{n}" for n in range(24)]
    calm = poisson(others, [Stage(4.0, 20.0), Stage(6.0, 60.0)], (4000, 200, 100))
    hot = poisson(["hot"], [Stage(0.0, 20.0), Stage(14.0, 60.0)], (4000, 200, 800), seed=2)
    rows = between(played(policy, calm + hot, FLEET).rows, 20.0, 80.0)
    rest = [row for row in rows if prefix_of(row) != "hot"]
    found, slow = hits(rest), ttft(rest, 0.95)
    return Verdict(found >= 0.8 and slow <= 1000, f"others {found:.0%} hits, P95 {slow:.0f} ms")


def burst(policy: str) -> Verdict:
    """64 prompts with one new prefix at once: P95 TTFT within 1.5 times a perfect split's, 8 to a pod."""
    profile = FLEET.profile
    perfect = profile.prefill_fixed + profile.chunk_ms(6000, 0) + 8 * profile.chunk_ms(1000, 6000)
    rows = played(policy, [question(n, 1.0, "new", (6000, 1000, 50)) for n in range(64)], FLEET).rows
    slow = ttft(rows, 0.95)
    return Verdict(
        slow <= 1.5 * perfect, f"P95 {slow / perfect:.2f} of a perfect split's, {fullest(rows)} on the fullest"
    )


def scale_out(policy: str) -> Verdict:
    """4 busy pods become 8: even after a minute (busiest ≤ 1.5 means), hits ≥ 80 % of those before."""
    added = tuple(Fault(at=60.0, kind="add") for _ in range(4))
    requests = poisson([f"p{n}" for n in range(60)], [Stage(10.0, 180.0)], (5000, 800, 600))
    result = played(policy, requests, FleetOptions(pods=4, faults=added, sample=1.0))
    before, after = hits(between(result.rows, 30.0, 60.0)), hits(between(result.rows, 60.0, 180.0))
    uneven = unevenness(result, 120.0, 180.0)
    passed = uneven <= 1.5 and after >= max(0.6, 0.8 * before)
    return Verdict(passed, f"busiest {uneven:.2f} means, hits {before:.0%} → {after:.0%}")


def half_speed(policy: str) -> Verdict:
    """One of 8 pods at half speed: P95 TTFT at most 2.5 times an even fleet's, and below a second.

    Twice is what a prefill takes there: more is waiting.
    """
    requests = poisson(
        [f"p{n}" for n in range(100)], [Stage(9.0, 60.0, warm_up=True), Stage(9.0, 90.0)], (5000, 800, 600)
    )
    even, uneven = (
        ttft([row for row in played(policy, requests, fleet).measured() if row.ok], 0.95)
        for fleet in (FLEET, FleetOptions(speeds=(2.0,)))
    )
    return Verdict(uneven <= 2.5 * even and uneven <= 1000, f"P95 {even:.0f} → {uneven:.0f} ms")


def frozen_scrape(policy: str) -> Verdict:
    """No gauges for 30 s: mean TTFT of that time at most 1.5 times what it is with them."""
    requests = poisson(["none"], [Stage(50.0, 65.0)], (16, 1100, 200))
    frozen = FleetOptions(faults=(Fault(at=30.0, kind="freeze-metrics", seconds=30.0),))
    fresh, stale = (ttft(between(played(policy, requests, fleet).rows, 30.0, 60.0)) for fleet in (FLEET, frozen))
    return Verdict(stale <= 1.5 * fresh, f"mean {fresh:.0f} → {stale:.0f} ms")


def lost_events(policy: str) -> Verdict:
    """No KV-cache events of two pods, ever: at least 90 % of the hits, mean TTFT at most 1.25 times."""
    requests = poisson(
        [f"p{n}" for n in range(100)], [Stage(8.0, 30.0, warm_up=True), Stage(8.0, 60.0)], (5000, 400, 300)
    )
    deaf = FleetOptions(faults=tuple(Fault(at=0.0, kind="freeze-events", pod=pod, seconds=1e6) for pod in (0, 1)))
    runs = [[row for row in played(policy, requests, fleet).measured() if row.ok] for fleet in (FLEET, deaf)]
    kept, slower = hits(runs[1]) / max(1e-9, hits(runs[0])), ttft(runs[1]) / ttft(runs[0])
    return Verdict(kept >= 0.9 and slower <= 1.25, f"{kept:.0%} of the hits, {slower:.2f} times the mean")


def avalanche(policy: str) -> Verdict:
    """Gauges a second old, nothing to reuse: P99 TTFT at most 1 s.

    The brief measured 3.5 s when the best pod was taken, 450 ms with any of the best three. Whoever
    believes an old reading sends all of that second to the one pod that looked best in it.
    """
    requests = poisson(["none"], [Stage(30.0, 25.0)], (16, 1500, 150))
    rows = played(policy, requests, FleetOptions(scrape_period=1.0)).rows
    slow, slowest = ttft(rows, 0.95), ttft(rows, 0.99)
    return Verdict(slowest <= 1000, f"P95 {slow:.0f}, P99 {slowest:.0f} ms")


def adapters(policy: str) -> Verdict:
    """16 adapters with a system prompt each, 4 places on each of 8 pods: at most 4 pods for an adapter on average."""
    return _adapters(policy, 1500)


def bare_adapters(policy: str) -> Verdict:
    """The same without system prompts: nothing but the adapter says where a request is at home."""
    return _adapters(policy, 0)


def _adapters(policy: str, system: int) -> Verdict:
    names = [f"a{n}" for n in range(16)]
    requests = [
        LabRequest(
            id=plain.id,
            arrival=plain.arrival,
            tokens=ids(prefix_of_id(plain.id), system) + ids(plain.id, 300),
            max_tokens=100,
            adapter=prefix_of_id(plain.id),
        )
        for plain in poisson(names, [Stage(10.0, 30.0)], (0, 1, 100))
    ]
    rows = played(policy, requests, FleetOptions(max_loras=4)).rows
    served = [row for row in rows if row.ok]
    spread = len({(prefix_of(row), row.pod) for row in rows}) / len(names)
    return Verdict(spread <= 4, f"{spread:.1f} pods an adapter, mean {ttft(served):.0f} ms")


def prefix_of_id(name: str) -> str:
    """The first part of a request's id."""
    return name.rpartition("/")[0]


TRAPS: Mapping[str, Callable[[str], Verdict]] = MappingProxyType(
    {
        "idle-fleet": idle_fleet,
        "hot-pod": hot_pod,
        "burst": burst,
        "scale-out": scale_out,
        "half-speed": half_speed,
        "frozen-scrape": frozen_scrape,
        "lost-events": lost_events,
        "avalanche": avalanche,
        "adapters": adapters,
        "bare-adapters": bare_adapters,
    }
)


def judge(pair: tuple[str, str]) -> Verdict:
    """In a process of its own: the trap and the policy."""
    return TRAPS[pair[0]](pair[1])


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--policies", nargs="+", default=[*OURS, *POLICIES], metavar="POLICY")
    parser.add_argument("--traps", nargs="+", choices=TRAPS, default=list(TRAPS), metavar="NAME", help=", ".join(TRAPS))
    parser.add_argument("--jobs", type=int, default=0, help="processes; 0: as many as there are cores")
    parser.add_argument("--json", action="store_true", help="print JSON")
    return parser.parse_args()


def main() -> None:
    options = arguments()
    policies = list(dict.fromkeys(options.policies))
    for policy in policies:
        policy_source(policy)  # refuses unknown names before anything runs
    pairs = [(trap, policy) for trap in options.traps for policy in policies]
    context = multiprocessing.get_context("spawn")
    found: dict[str, dict[str, Verdict]] = {policy: {} for policy in policies}
    with ProcessPoolExecutor(options.jobs or os.cpu_count(), mp_context=context) as pool:
        shown = ""
        for (trap, policy), verdict in zip(pairs, pool.map(judge, pairs), strict=True):
            found[policy][trap] = verdict
            if not options.json:
                if trap != shown:
                    shown = trap
                    print(f"\n{trap}: {(TRAPS[trap].__doc__ or '').splitlines()[0]}")
                print(f"  {'pass' if verdict.passed else 'FAIL'}  {policy:15} {verdict.number}", flush=True)
    if options.json:
        print(json.dumps(msgspec.to_builtins(found)))
        return
    print(f"\n{'passed':>23}")
    for policy in policies:
        passed = sum(verdict.passed for verdict in found[policy].values())
        print(f"  {policy:15}{passed:3} of {len(found[policy])}")


if __name__ == "__main__":
    main()
