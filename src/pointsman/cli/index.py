"""``pointsman index hash`` and ``pointsman index replay``."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import msgspec
from cyclopts import App, Parameter
from rich.console import Console
from rich.table import Table

from pointsman.cli.common import print_json
from pointsman.errors import ConfigError
from pointsman.kvcache.engine_hash import prompt_hashes
from pointsman.kvcache.recording import Query, RankSummary, Recording

index_app = App(name="index", help="Look into KV caches: engines' block hashes, recorded event streams.")

_TokenId = Annotated[int, msgspec.Meta(ge=0, le=2**32 - 1)]


@index_app.command(name="hash")
def hash_(tokens: Path, *, algo: str = "sha256", seed: str | None = None, block_size: int = 16) -> int:
    """Print the block hashes that an engine computes for prompts, as its events show them.

    ```console
    pointsman index hash --algo sha256_cbor --seed 0 --block-size 32 tokens.json
    ```

    Parameters
    ----------
    tokens
        JSON file: a list of prompts, each a list of token ids.
    algo
        vLLM's --prefix-caching-hash-algo (sha256, sha256_cbor, xxhash, xxhash_cbor), or sglang.
    seed
        PYTHONHASHSEED of the engine; by default what vLLM 0.29 and later use without one.
    block_size
        Tokens per block (SGLang: page).
    """
    print_json(prompt_hashes(read_prompts(tokens), block_size, algorithm=algo, seed=seed))
    return 0


@index_app.command
def replay(
    events: Path,
    *,
    query: Path | None = None,
    adapter: str | None = None,
    salt: str | None = None,
    json: Annotated[bool, Parameter(negative=())] = False,
) -> int:
    """Follow a recorded event stream and print what each engine holds at its end.

    ```console
    pointsman index replay events.jsonl --json --query tokens.json
    ```

    Parameters
    ----------
    events
        Recorded ZeroMQ messages, one JSON object a line: t, src, frames (hexadecimal).
    query
        JSON file with a list of prompts, each a list of token ids: also count their leading blocks that are live.
    adapter
        LoRA adapter of the queries.
    salt
        Cache salt of the queries.
    json
        Print JSON.
    """
    wanted = None if query is None else Query(read_prompts(query), adapter, salt)
    recording = Recording(str(events))
    try:
        with events.open("rb") as lines:
            recording.feed(lines)
    except OSError as error:
        raise ConfigError(f"cannot be read: {error.strerror}", source=str(events)) from error
    sources = recording.finish(wanted)
    if json:
        answer: dict[str, object] = {"sources": sources}
        if wanted is not None:
            answer["matched"] = {name: _best(ranks, len(wanted.prompts)) for name, ranks in sources.items()}
        print_json(answer)
    else:
        _show(sources)
    return 0


def read_prompts(path: Path) -> list[list[int]]:
    """Token ids of prompts from a JSON file.

    Raises:
        ConfigError: if the file cannot be used.
    """
    try:
        return msgspec.json.decode(path.read_bytes(), type=list[list[_TokenId]])
    except OSError as error:
        raise ConfigError(f"cannot be read: {error.strerror}", source=str(path)) from error
    except (msgspec.MsgspecError, UnicodeError, RecursionError) as error:
        raise ConfigError(f"{error} (a list of lists of token ids is wanted)", source=str(path)) from error


def _best(ranks: dict[str, RankSummary], prompts: int) -> list[int]:
    """By prompt, the most blocks that any rank holds."""
    return [max((rank.matched or [0] * prompts)[at] for rank in ranks.values()) for at in range(prompts)]


def _show(sources: dict[str, dict[str, RankSummary]]) -> None:
    table = Table("source", "rank", "live blocks", "batches", "gaps", "restarts", "skipped", "matched", box=None)
    for name, ranks in sources.items():
        for rank, summary in ranks.items():
            live = ", ".join(f"{count} {place}" for place, count in summary.live.items()) or "0"
            skipped = ", ".join(f"{count} {reason}" for reason, count in summary.skipped.items()) or "0"
            matched = "" if summary.matched is None else " ".join(map(str, summary.matched))
            counts = map(str, (summary.batches, summary.gaps, summary.restarts))
            table.add_row(name, rank, live, *counts, skipped, matched)
    Console(highlight=False, soft_wrap=True).print(table)
