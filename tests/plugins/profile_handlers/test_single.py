from __future__ import annotations

import pytest
from tests.builders import make_endpoint, make_plugin, make_request, make_state

from pointsman.api.result import ProfileRunResult
from pointsman.errors import PluginError
from pointsman.plugins.profile_handlers.single import SingleProfileHandler


def run(profile: str) -> ProfileRunResult:
    return ProfileRunResult(profile=profile, targets=(make_endpoint(3),))


def test_runs_the_only_profile() -> None:
    result = make_plugin(SingleProfileHandler).handle_profiles(make_request(), ["default"], run, make_state())
    assert (result.primary, list(result.profiles), result.chosen.slot) == ("default", ["default"], 3)


@pytest.mark.parametrize("profiles", [[], ["prefill", "decode"]])
def test_refuses_any_other_number(profiles: list[str]) -> None:
    with pytest.raises(PluginError, match="exactly one profile"):
        make_plugin(SingleProfileHandler).handle_profiles(make_request(), profiles, run, make_state())
