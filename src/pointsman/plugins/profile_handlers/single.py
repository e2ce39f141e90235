"""One profile for every request."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from pointsman.api.request import InferenceRequest
from pointsman.api.result import ProfileRunResult, SchedulingResult
from pointsman.errors import PluginError
from pointsman.framework.plugin import Params, ProfileHandler, register
from pointsman.framework.state import CycleState


class SingleProfileParams(Params, frozen=True):
    """``single-profile-handler`` takes no parameters."""


@register("single-profile-handler")
class SingleProfileHandler(ProfileHandler[SingleProfileParams]):
    """Runs the one profile there is."""

    formula = "the result of the only profile"
    inputs = "the configured profiles"

    def handle_profiles(
        self,
        request: InferenceRequest,
        profiles: Sequence[str],
        run: Callable[[str], ProfileRunResult],
        state: CycleState,
    ) -> SchedulingResult:
        """Run the only profile.

        Raises:
            PluginError: if there is not exactly one.
        """
        if len(profiles) != 1:
            raise PluginError(f"{self.type} takes exactly one profile, {len(profiles)} are configured")
        name = profiles[0]
        return SchedulingResult(primary=name, profiles={name: run(name)})
