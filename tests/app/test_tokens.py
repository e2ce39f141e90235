from __future__ import annotations

import asyncio
from pathlib import Path

from tests.requestcontrol.rig import Rig
from tests.requestcontrol.tokenizing.test_assemble import plan_of

from pointsman.app.tokens import TokenKeeper
from pointsman.clock import SystemClock
from pointsman.datalayer.datastore import Datastore, EndpointSpec

PLAIN = plan_of("plugins: []")
POOL = plan_of("plugins: [{type: token-producer, parameters: {vllm: {url: pool}}}]")


def keeper() -> tuple[TokenKeeper, Rig, Datastore]:
    rig, datastore = Rig(), Datastore(SystemClock())
    return TokenKeeper(rig.director, datastore), rig, datastore


def test_the_service_follows_the_plan() -> None:
    async def main() -> None:
        tokens, rig, _ = keeper()
        await tokens.use(PLAIN)
        assert rig.director.tokenizing is None
        await tokens.use(POOL)
        first = rig.director.tokenizing
        assert first is not None
        assert list(first.stats()["ways"]) == ["engine"]
        await tokens.use(POOL)
        assert rig.director.tokenizing is first
        tokens.replace(PLAIN)
        await asyncio.sleep(0.05)
        assert rig.director.tokenizing is None
        await tokens.stop()

    asyncio.run(main())


def test_a_tokenizer_that_cannot_be_read_leaves_the_old_one(tmp_path: Path) -> None:
    (tmp_path / "tokenizer.json").write_text("{}")
    broken = plan_of(f"plugins: [{{type: token-producer, parameters: {{local: {{path: {tmp_path}}}}}}}]")

    async def main() -> None:
        tokens, rig, _ = keeper()
        await tokens.use(POOL)
        before = rig.director.tokenizing
        tokens.replace(broken)
        await asyncio.sleep(0.3)
        assert rig.director.tokenizing is before
        await tokens.stop()
        assert rig.director.tokenizing is None

    asyncio.run(main())


def test_pods_are_asked_in_turn() -> None:
    tokens, _, datastore = keeper()
    assert tokens._pod() is None
    datastore.set_endpoints([EndpointSpec(f"pod-{i}", f"10.0.0.{i}", 8000) for i in range(2)])
    assert {tokens._pod() for _ in range(4)} == {"http://10.0.0.0:8000", "http://10.0.0.1:8000"}
