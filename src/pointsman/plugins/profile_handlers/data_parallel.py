"""Sends requests to the primary port of a pod, and names the data-parallel rank in a header."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from typing import Annotated

from msgspec import Meta

from pointsman.api.request import InferenceRequest
from pointsman.api.result import ProfileRunResult, SchedulingResult
from pointsman.errors import ConfigError
from pointsman.framework.plugin import Params, ProfileHandler, RequestHeaders, register
from pointsman.framework.state import CycleState
from pointsman.plugins.profile_handlers._ranks import RANK_HEADER, rank_header, to_primary_port


class DataParallelParams(Params, frozen=True):
    """Parameters of ``data-parallel-profile-handler``."""

    primary_port: Annotated[
        int, Meta(ge=1, le=65_535, description="Port of every pod at which a proxy beside it takes all requests.")
    ] = 8000


@register("data-parallel-profile-handler")
class DataParallelProfileHandler(ProfileHandler[DataParallelParams], RequestHeaders):
    """For gateways that cannot reach the ranks' own ports; with one that can, ``single-profile-handler`` is enough."""

    formula = f"the only profile's choice at primaryPort; {RANK_HEADER}: ip:port of the rank"
    inputs = "the configured profile"

    def check(self, profiles: Collection[str], plugins: Collection[str]) -> None:
        if len(profiles) != 1:
            raise ConfigError(f"{self.type} takes exactly one profile, {len(profiles)} are configured")

    def handle_profiles(
        self,
        request: InferenceRequest,
        profiles: Sequence[str],
        run: Callable[[str], ProfileRunResult],
        state: CycleState,
    ) -> SchedulingResult:
        name = profiles[0]
        return SchedulingResult(name, {name: to_primary_port(run(name), self.params.primary_port)})

    def request_headers(
        self, request: InferenceRequest, result: SchedulingResult, state: CycleState
    ) -> Mapping[str, str]:
        return rank_header(result)
