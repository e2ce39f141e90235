from __future__ import annotations

import json
import time
from pathlib import Path

import pytest
from tests.builders import make_endpoint, make_outcome, make_request, make_result
from tests.requestcontrol.rig import Rig

from pointsman.api.record import DecisionRecord
from pointsman.app.recording import record_options, start_recording, tell_policy
from pointsman.errors import ConfigError
from pointsman.requestcontrol.planning import build_plan


def test_flags_travel_to_the_picker() -> None:
    options = record_options(Path("/r"), 0.5, 64)
    assert options is not None
    assert options.flags() == ["--records", "/r", "--records-sample", "0.5", "--records-max-mb", "64"]
    assert record_options(None, 7, -1) is None


@pytest.mark.parametrize(("sample", "size"), [(0.0, 1), (1.1, 1), (float("nan"), 1), (1, 0), (1, float("nan"))])
def test_numbers_that_make_no_sense_are_refused(sample: float, size: float) -> None:
    with pytest.raises(ConfigError, match="--records-"):
        record_options(Path("r"), sample, size)


def test_a_new_policy_begins_a_new_file_and_paths_of_this_machine_stay_out(tmp_path: Path) -> None:
    rig = Rig("default")
    options = record_options(tmp_path / "r", 1.0, 8)
    assert options is not None
    pod = make_endpoint(0)
    sink = start_recording(options, rig.clock, rig.metrics, rig.plan)

    def end(name: str) -> None:
        request = make_request("hello " * 100, id=name)
        record = DecisionRecord(request_id=name, time=0, model="m", prompt_tokens=150, profile="p", unit="ms",
                                chosen=pod.id, hostport="", destination="", result=make_result(pod))  # fmt: skip
        rig.metrics.ended(make_outcome(pod, request), record)

    end("a")
    while rig.count("records_total", result="written") < 1:
        time.sleep(0.005)
    tell_policy(sink, build_plan("brief", rig.handle))
    end("b")
    sink.stop()
    first, second = (tmp_path / "r" / name for name in ("records-000001.jsonl", "records.jsonl"))
    heads = [json.loads(file.read_text().splitlines()[0]) for file in (first, second)]
    assert [head["policy"] for head in heads] == ["preset:default", "preset:brief"]
    assert heads[0]["recording"] == heads[1]["recording"]
    assert all("pluginPaths" not in head["config"] and head["config"]["plugins"] for head in heads)
    assert rig.count("records_total", result="written") == 2
