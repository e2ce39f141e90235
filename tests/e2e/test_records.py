"""Record → replay, with a shadow: a real picker behind a real Envoy, and the lab on what it wrote."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest
from tests.e2e.stack import chat, running

from pointsman.app.recording import RecordOptions
from pointsman.lab.compare_specs import TraceWorkload
from pointsman.lab.options import FleetOptions
from pointsman.lab.records import recorded_fleet
from pointsman.lab.records_file import read_entries, scan
from pointsman.lab.replay import MEASURED, SIMULATED, replay

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(90)]

CONFIG = """\
apiVersion: llm-d.ai/v1alpha1
kind: EndpointPickerConfig
plugins: [{type: round-robin-picker}]
schedulingProfiles: [{name: live, plugins: [{pluginRef: round-robin-picker}]}]
observeShare: 1.0
shadow: default
"""


def test_what_was_recorded_can_be_replayed(tmp_path: Path) -> None:
    config, folder = tmp_path / "config.yaml", tmp_path / "records"
    config.write_text(CONFIG)

    async def main() -> str:
        records = RecordOptions(path=folder)
        flags = ("--time-scale", "20")
        async with running(tmp_path, 2, flags, config=str(config), records=records, time_scale=20.0) as stack:
            for turn in range(12):
                status, _, body = await stack.post(chat("y" * 8000 + f" question {turn}", tokens=8, stream=True))
                assert status == 200, body
            page: str = await stack.admin("/metrics")
            return page

    page = asyncio.run(main())
    info = scan(folder)
    assert info.requests == info.observed.answered == 12
    assert len(info.pods) == 2
    assert len(info.observed.ttft_ms) == 12
    differing = [entry.line for entry in read_entries(info.files) if entry.line.shadow and entry.line.shadow.reason]
    assert differing, "after the first answers the default would stay with the pod that holds the prompt"
    assert 'pointsman_shadow_decisions_total{result="differs"}' in page
    assert 'pointsman_records_total{result="written"}' in page
    assert b"yyyy" not in (folder / "records.jsonl").read_bytes()
    found = replay(
        info, TraceWorkload(path=folder, format="records"), recorded_fleet(info, FleetOptions()), ["default"]
    )
    assert [row.name for row in found.rows] == [MEASURED, SIMULATED, "default"]
    assert all(row.success == 1.0 for row in found.rows)
