"""Token ids of a 24 KB conversation: whole, its new turn only, and estimated; and what the event loop feels of it.

The loop is measured by a heartbeat every millisecond while prompts are tokenized without a pause: in the loop itself,
in a thread that holds the interpreter lock (``encode``), and in the picker's way. A lag is how much later than due a
beat came. ``--model FOLDER`` takes another tokenizer than the tests' one of 8192 tokens; times grow with the
vocabulary.

(Not named tokenize.py: that would hide Python's own module from everything run in this folder.)
"""

from __future__ import annotations

import argparse
import asyncio
import gzip
import statistics
import sysconfig
import tempfile
import time
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import msgspec
from tokenizers import Tokenizer

from pointsman.api.request import RequestHead
from pointsman.requestcontrol.parsers.registry import parse_request
from pointsman.requestcontrol.tokenizing.guard import Guard
from pointsman.requestcontrol.tokenizing.local import LocalTokenizer, load_tokenizer
from pointsman.requestcontrol.tokenizing.prompts import ChatPrompt, read_prompt
from pointsman.requestcontrol.tokenizing.service import Tokenizing
from pointsman.requestcontrol.tokenizing.threads import LocalWay

CHAT = "/v1/chat/completions"
DATA = Path(__file__).parents[1] / "tests" / "data" / "tiny_tokenizer"
BYTES = 24 * 1024
TURN = "Does the second function close its file when reading fails, and what would you change about it? "


def tiny_folder() -> Path:
    folder = Path(tempfile.mkdtemp(prefix="bench-tokens-"))
    (folder / "tokenizer.json").write_bytes(gzip.decompress((DATA / "tokenizer.json.gz").read_bytes()))
    for name in ("tokenizer_config.json", "chat_template.jinja"):
        (folder / name).write_bytes((DATA / name).read_bytes())
    return folder


def conversations(count: int) -> list[bytes]:
    """Chats of 24 KB that share nothing, with text of the standard library."""
    files = sorted(Path(sysconfig.get_paths()["stdlib"]).glob("*.py"))
    text = "".join(file.read_text("utf-8", "replace") for file in files)
    pieces = [text[at : at + BYTES] for at in range(0, len(text) - BYTES, BYTES)][:count]
    return [
        msgspec.json.encode(
            {"model": "m", "messages": [{"role": "system", "content": piece}, {"role": "user", "content": TURN}]}
        )
        for piece in pieces
    ]


def one_turn_more(body: bytes) -> bytes:
    data: dict[str, Any] = msgspec.json.decode(body)
    answer = {"role": "assistant", "content": TURN * 4}
    return msgspec.json.encode(data | {"messages": [*data["messages"], answer, {"role": "user", "content": TURN}]})


def timed(work: Callable[[bytes], object], bodies: list[bytes]) -> list[float]:
    """Milliseconds per body."""
    times = []
    for body in bodies:
        start = time.perf_counter()
        work(body)
        times.append((time.perf_counter() - start) * 1000)
    return times


def show(name: str, times: list[float], note: str = "") -> None:
    p95 = sorted(times)[int(0.95 * (len(times) - 1))]
    print(f"{name:<44} {statistics.median(times):>8.3f} {p95:>8.3f} {max(times):>8.3f}  {note}")


def ids_of(tokenizer: LocalTokenizer, body: bytes) -> tuple[int, ...]:
    prompt = read_prompt(CHAT, body)
    assert prompt is not None
    return tuple(tokenizer.tokens(prompt))


def throughput(folder: Path, bodies: list[bytes]) -> None:
    print(f"{'milliseconds per prompt, body to ids':<44} {'p50':>8} {'p95':>8} {'max':>8}")
    whole, cached = load_tokenizer(folder, cache_bytes=0), load_tokenizer(folder)
    show("whole", timed(lambda body: ids_of(whole, body), bodies), f"{len(ids_of(whole, bodies[0]))} tokens")
    show("whole, filling the cache", timed(lambda body: ids_of(cached, body), bodies))
    later = [one_turn_more(body) for body in bodies]
    show("one turn later (the tail only)", timed(lambda body: ids_of(cached, body), later))
    show("the same again (nothing new)", timed(lambda body: ids_of(cached, body), later))
    assert all(ids_of(cached, body) == ids_of(whole, body) for body in later)
    head = RequestHead({":path": CHAT, ":method": "POST"})
    show("estimate", timed(lambda body: parse_request(head, body, request_id="r", arrival=0.0), bodies), "= parsing")


async def beats(work: Awaitable[object]) -> list[float]:
    """Lags of a heartbeat in milliseconds while ``work`` goes on."""
    task = asyncio.ensure_future(work)
    lags = []
    while not task.done():
        due = time.perf_counter() + 0.001
        await asyncio.sleep(0.001)
        lags.append((time.perf_counter() - due) * 1000)
    await task
    return lags


async def stalls(folder: Path, bodies: list[bytes]) -> None:
    print(f"\n{'milliseconds that a 1 ms heartbeat is late':<44} {'p50':>8} {'p95':>8} {'max':>8}")
    tokenizer = load_tokenizer(folder, cache_bytes=0)
    plain = Tokenizer.from_file(str(folder / "tokenizer.json"))

    async def in_the_loop() -> None:
        for body in bodies:
            ids_of(tokenizer, body)
            await asyncio.sleep(0)

    def encode(body: bytes) -> None:
        prompt = read_prompt(CHAT, body)
        assert isinstance(prompt, ChatPrompt)
        plain.encode("\n".join(message["content"] for message in prompt.messages)).ids  # noqa: B018 - ids cost too

    async def in_a_thread() -> None:
        for body in bodies:
            await asyncio.to_thread(encode, body)

    service = Tokenizing([LocalWay(tokenizer, Guard(1e6), time.perf_counter)], budget_ms=1e6)

    async def as_the_picker_does() -> None:
        for body in bodies:
            request = parse_request(RequestHead({":path": CHAT, ":method": "POST"}), body, request_id="r", arrival=0.0)
            assert (await service.tokens(request, body)).way == "exact-local"

    show("nothing else to do", await beats(asyncio.sleep(0.5)))
    show("in the loop", await beats(in_the_loop()))
    show("in a thread, encode", await beats(in_a_thread()))
    show("in a thread, as the picker does", await beats(as_the_picker_does()))
    await service.close()


async def budget(folder: Path, bodies: list[bytes]) -> None:
    """Prompts that share nothing, with the default budget, one after the other."""
    service = Tokenizing([LocalWay(load_tokenizer(folder), Guard(8.0), time.perf_counter)])
    head = RequestHead({":path": CHAT, ":method": "POST"})
    for name, asked in (
        ("8 ms budget: all new", bodies),
        ("8 ms budget: one turn later", [*map(one_turn_more, bodies)]),
    ):
        waits, exact = [], 0
        for body in asked:
            request = parse_request(head, body, request_id="r", arrival=0.0)
            start = time.perf_counter()
            result = await service.tokens(request, body)
            waits.append((time.perf_counter() - start) * 1000)
            exact += result.way == "exact-local"
            await asyncio.sleep(0.01)
        show(name, waits, f"{exact}/{len(asked)} exact")
    print(service.stats()["counts"])
    await service.close()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--model", type=Path, help="a model's folder")
    parser.add_argument("--prompts", type=int, default=100)
    options = parser.parse_args()
    folder = options.model or tiny_folder()
    bodies = conversations(options.prompts)
    throughput(folder, bodies)
    asyncio.run(stalls(folder, bodies))
    print(f"\n{'milliseconds waited':<44} {'p50':>8} {'p95':>8} {'max':>8}")
    asyncio.run(budget(folder, bodies))


if __name__ == "__main__":
    main()
