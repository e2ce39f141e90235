"""Loading an adapter: where it is, where it was sent, where there is no room."""

from __future__ import annotations

from tests.builders import make_endpoint, make_endpoints, make_plugin, make_request, make_result, make_state

from pointsman.api.endpoint import Endpoint, LoraState
from pointsman.plugins.scorers.adapter_load_cost import AdapterLoadCost

REQUEST = make_request(model="tuned", target_model="tuned")


def pod(slot: int, *running: str, waiting: tuple[str, ...] = (), capacity: int = 2) -> Endpoint:
    return make_endpoint(
        slot, lora=LoraState(capacity, frozenset(running), frozenset(waiting)), models=frozenset({"b"})
    )


def costs(plugin: AdapterLoadCost, *endpoints: Endpoint, model: str = "tuned") -> list[float]:
    request = make_request(model=model, target_model=model)
    return list(plugin.cost(request, endpoints, make_state()))


def send(plugin: AdapterLoadCost, endpoint: Endpoint, model: str) -> None:
    plugin.picked(make_request(model=model, target_model=model), make_result(endpoint), make_state())


def test_by_what_the_gauges_say() -> None:
    plugin = make_plugin(AdapterLoadCost)
    # Running there; a free slot; full; one running and one about to; LoRA off.
    found = costs(
        plugin, pod(0, "tuned", "x"), pod(1, "x"), pod(2, "x", "y"), pod(3, "x", waiting=("y",)), pod(4, capacity=0)
    )
    assert found == [0.0, 50.0, 1050.0, 1050.0, 0.0]


def test_no_adapter_asked_for_or_no_lora() -> None:
    plugin = make_plugin(AdapterLoadCost)
    assert costs(plugin, pod(0, "x", "y"), pod(1), model="b") == [0.0, 0.0]
    assert costs(plugin, *make_endpoints(3)) == [0.0, 0.0, 0.0]
    labelled = make_endpoint(0, model="tuned", lora=LoraState(2, frozenset({"x", "y"})))
    assert costs(plugin, labelled) == [0.0]


def test_an_idle_adapter_is_still_there_until_its_slot_is_needed() -> None:
    plugin = make_plugin(AdapterLoadCost, loadMs=80, fullMs=500)
    send(plugin, pod(0), "tuned")
    assert costs(plugin, pod(0), pod(1)) == [0.0, 80.0]
    assert costs(plugin, pod(0, "x", "y")) == [580.0], "all slots run others: it has gone"
    send(plugin, pod(0), "x")
    send(plugin, pod(0), "b")
    assert costs(plugin, pod(0)) == [0.0], "two slots, two adapters; the base model takes none"
    send(plugin, pod(0), "y")
    assert costs(plugin, pod(0)) == [80.0], "least recently sent"
    send(plugin, pod(0), "tuned")
    plugin.endpoint_removed(pod(0))
    assert costs(plugin, pod(0)) == [80.0]
