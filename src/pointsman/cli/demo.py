"""``pointsman demo``."""

from __future__ import annotations

import sys
from typing import Annotated

from cyclopts import Parameter

from pointsman.cli.common import print_json, run_async
from pointsman.demo.runner import DemoOptions, run_demo
from pointsman.observability.logging import setup

Policies = Annotated[
    tuple[str, ...],
    Parameter(help="Policies in order: round-robin is Envoy's own, others are presets or files.", negative=()),
]
Keep = Annotated[bool, Parameter(help="Leave the last policy running and print a request to try.", negative=())]
AsJson = Annotated[bool, Parameter(name="--json", help="Print the result as JSON.", negative=())]


def demo(
    *,
    pods: int = 8,
    groups: int = 150,
    variants: int = 5,
    rounds: int = 2,
    system_tokens: int = 6000,
    question_tokens: int = 200,
    output_tokens: int = 500,
    qps: float = 20.0,
    time_scale: float = 5.0,
    policy: Policies = ("round-robin", "brief", "default"),
    seed: int = 1,
    keep: Keep = False,
    as_json: AsJson = False,
) -> int:
    """Compare round-robin with the picker: simulated pods behind a real Envoy, on this machine, in two minutes.

    Every policy gets a fresh fleet and the same requests at the same times: GROUPS system prompts of SYSTEM_TOKENS
    tokens, VARIANTS questions to each, each asked ROUNDS times, in random order, arriving at QPS per second of engine
    time (Poisson, open loop). Before that each group is asked once, which is not counted.

    ```console
    pointsman demo
    pointsman demo --qps 12 --policy round-robin --policy llm-d --policy default
    pointsman demo --keep
    ```

    Parameters
    ----------
    pods
        Simulated model servers.
    groups
        Different system prompts.
    variants
        Questions to each.
    rounds
        How often each question is asked.
    system_tokens
        Length of a system prompt.
    question_tokens
        Length of a question.
    output_tokens
        Length of an answer.
    qps
        Requests per second of engine time.
    time_scale
        How many times faster than real time the simulated engines run.
    seed
        Seed of texts, order and arrival times.
    """
    setup("error")
    options = DemoOptions(
        pods=pods,
        groups=groups,
        variants=variants,
        rounds=rounds,
        system_tokens=system_tokens,
        question_tokens=question_tokens,
        output_tokens=output_tokens,
        qps=qps,
        time_scale=time_scale,
        policies=policy,
        seed=seed,
        keep=keep,
        quiet=as_json,
    )
    results = run_async_result(options)
    if as_json:
        print_json({"policies": results})
    return 0


def run_async_result(options: DemoOptions) -> dict[str, object]:
    """Run the demo on the best event loop there is and bring its result back."""
    box: dict[str, object] = {}

    async def main() -> int:
        box.update(await run_demo(options))
        return 0

    sys.stdout.flush()
    run_async(main)
    return box
