"""Runs the profile that a header names, for callers that know which stage of a pipeline they ask for."""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from typing import Annotated

from msgspec import Meta

from pointsman.api.request import InferenceRequest
from pointsman.api.result import ProfileRunResult, SchedulingResult
from pointsman.errors import BadRequestError, ConfigError
from pointsman.framework.plugin import Params, ProfileHandler, register
from pointsman.framework.state import CycleState


class HeaderProfileParams(Params, frozen=True):
    """Parameters of ``header-profile-handler``, as in llm-d."""

    header_name: Annotated[
        str, Meta(min_length=1, description="Header with the profile's name; upper and lower case are the same.")
    ] = "EPP-Profile"
    default_profile: Annotated[
        str, Meta(min_length=1, description="Profile for requests without the header, when there are several.")
    ] = "decode"


@register("header-profile-handler")
class HeaderProfileHandler(ProfileHandler[HeaderProfileParams]):
    """The only profile runs in any case. A profile that is not there is the client's mistake (400), not a lack of room.

    llm-d answers it with 429, which invites to ask the same again.
    """

    formula = "the profile that the header names, else defaultProfile"
    inputs = "request header"

    def main_profile(self) -> str:
        return self.params.default_profile

    def check(self, profiles: Collection[str], plugins: Collection[str]) -> None:
        default = self.params.default_profile
        if len(profiles) > 1 and default not in profiles:
            raise ConfigError(
                f"parameters.defaultProfile: no profile is named {default!r}", hint=f"profiles: {', '.join(profiles)}"
            )

    def handle_profiles(
        self,
        request: InferenceRequest,
        profiles: Sequence[str],
        run: Callable[[str], ProfileRunResult],
        state: CycleState,
    ) -> SchedulingResult:
        """Run one.

        Raises:
            BadRequestError: the header names another one than there are.
        """
        header = self.params.header_name
        wanted = request.headers.get(header.lower(), "").strip() or self.params.default_profile
        name = profiles[0] if len(profiles) == 1 else wanted
        if name not in profiles:
            raise BadRequestError(f"header {header}: there is no profile {name[:100]!r}")
        return SchedulingResult(name, {name: run(name)})
