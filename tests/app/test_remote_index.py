"""Indexers follow the plan, and decisions follow the indexers."""

from __future__ import annotations

import asyncio
import json
import math
from pathlib import Path
from typing import Any

import pytest
from tests.builders import make_endpoints
from tests.console.indexer_rig import Client, serve
from tests.requestcontrol.rig import CHAT, Rig
from tests.requestcontrol.tokenizing.test_assemble import plan_of
from tests.requestcontrol.tokenizing.tiny import tiny_folder

from pointsman.api.request import RequestHead
from pointsman.app.indexer import Indexer
from pointsman.app.indexer_tokens import token_options
from pointsman.app.remote_index import RemoteIndexKeeper
from pointsman.framework.observer import Observer
from pointsman.requestcontrol.exchange import Exchange, Pending, is_pending

PLAIN = plan_of("plugins: []")
HEAD = RequestHead({":method": "POST", ":path": CHAT})
LONG = "The quick brown fox jumps over the lazy dog. " * 40


def remote(url: str, more: str = "") -> Any:
    first = f"{{type: remote-prefix-cache-producer, parameters: {{cacheIndexerURL: '{url}', timeoutMs: 5000}}}}"
    return plan_of(f"plugins: [{first}{more}]")


def test_indexers_follow_the_plan() -> None:
    async def main() -> None:
        rig = Rig()
        keeper = RemoteIndexKeeper(rig.director, Observer())
        keeper.use(PLAIN)
        assert rig.director.remote_index is None
        keeper.use(remote("http://127.0.0.1:1"))
        (first,) = keeper.clients
        same = ", {type: remote-prefix-cache-producer, name: b, parameters: {cacheIndexerURL: 'http://127.0.0.1:1', "
        keeper.use(remote("http://127.0.0.1:1", same + "timeoutMs: 5000}}"))
        assert keeper.clients == (first,)
        keeper.use(remote("http://127.0.0.1:2"))
        (second,) = keeper.clients
        assert second is not first
        assert rig.director.remote_index is not None
        keeper.use(PLAIN)
        assert (rig.director.remote_index, keeper.clients) == (None, ())
        await keeper.stop()

    asyncio.run(main())


BRIEF = """
scorers:
  - {{type: prefix-aware, weight: 100, cacheIndexerURL: 'http://127.0.0.1:{port}', cacheIndexerTimeoutMs: 9000}}
selection: {{type: max-score}}
"""
PRECISE = """
apiVersion: llm-d.ai/v1alpha1
kind: EndpointPickerConfig
plugins:
  - {{type: remote-prefix-cache-producer, parameters: {{cacheIndexerURL: 'http://127.0.0.1:{port}', timeoutMs: 9000}}}}
  - {{type: uncached-prefill-cost, parameters: {{prefixMatchInfoProducerName: remote-prefix-cache-producer}}}}
schedulingProfiles:
  - {{name: default, plugins: [{{pluginRef: uncached-prefill-cost}}]}}
"""


async def decided(rig: Rig, **body: Any) -> Exchange:
    data = {"model": "m", "messages": [{"role": "user", "content": LONG}], **body}
    found = rig.director.decide(HEAD, json.dumps(data).encode(), received=math.inf)
    if not is_pending(found):
        return found  # type: ignore[return-value]
    done: asyncio.Future[Pending] = asyncio.get_running_loop().create_future()
    found.add_done_callback(done.set_result)
    return (await done).result()


@pytest.mark.parametrize("config", [BRIEF, PRECISE])
@pytest.mark.parametrize("pod", ["default/pod-5", "pod-5", "10.0.0.5:8000", "10.0.0.5", "x/10.0.0.5:8000"])
def test_a_decision_goes_where_the_indexer_says_the_prompt_is(tmp_path: Path, config: str, pod: str) -> None:
    async def work(service: Indexer, client: Client) -> None:
        body = {"model": "m", "messages": [{"role": "user", "content": LONG}], "return_token_ids": True}
        ids = (await client.post("/query", body))[1]["token_ids"]
        count = len(ids) // 16
        stored = {"type": "block_created", "block_hashes": list(range(1, count + 1)), "token_ids": ids[: count * 16]}
        await client.post(f"/events?pod={pod}&model=m", {**stored, "block_size": 16})
        (tmp_path / "config.yaml").write_text(config.format(port=service.port))
        rig = Rig(tmp_path / "config.yaml", make_endpoints(8))
        keeper = RemoteIndexKeeper(rig.director, rig.metrics)
        keeper.use(rig.plan)
        exchange = await decided(rig)
        assert exchange.decision.endpoints[0].id == "default/pod-5"
        record = exchange.decision.record.view()
        assert record["predicted_cached_tokens"] == (len(ids) - 1) // 16 * 16
        assert record["prompt_tokens"] == len(ids)
        exchange.end("complete")
        salted = (await decided(rig, cache_salt="s")).decision.record.view()
        assert salted["predicted_cached_tokens"] == 0
        await service._server.stop()
        alone = await decided(rig)
        assert alone.decision.request.token_ids is None
        assert rig.count("degraded_total", kind="indexer-error") == 1
        await keeper.stop()

    serve(work, tokens=token_options(tiny_folder(), None, 30_000))


def test_while_it_fails_decisions_are_there_at_once(tmp_path: Path) -> None:
    (tmp_path / "config.yaml").write_text(PRECISE.format(port=1))

    async def main() -> None:
        rig = Rig(tmp_path / "config.yaml")
        keeper = RemoteIndexKeeper(rig.director, rig.metrics)
        keeper.use(rig.plan)
        (client,) = keeper.clients
        while client.counts["indexer-error"] == client.counts["asked"]:
            await decided(rig)
            await asyncio.sleep(0.02)
        body = json.dumps({"model": "m", "messages": [{"role": "user", "content": "hi"}]}).encode()
        client._breaker.failed(client._now())  # no probe is due, however slow this machine is
        before = rig.count("degraded_total", kind="indexer-error")
        assert before > 5
        assert not is_pending(rig.director.decide(HEAD, body, received=math.inf))
        assert rig.count("degraded_total", kind="indexer-error") == before + 1
        assert not is_pending(rig.director.decide(RequestHead({":method": "GET"}), b"", received=math.inf))
        assert rig.count("degraded_total", kind="indexer-error") == before + 1
        await keeper.stop()

    asyncio.run(main())
