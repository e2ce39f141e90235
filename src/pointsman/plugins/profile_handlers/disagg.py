"""Disaggregated serving: one endpoint decodes, others prefill and encode for it.

The request goes to the endpoint that decodes. A proxy beside it reads from headers who prefills and encodes, has that
done, and then hands the request to its engine.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Collection, Mapping, Sequence
from typing import Annotated, Any, ClassVar, Literal

import msgspec
from msgspec import Meta

from pointsman.api.endpoint import Endpoint
from pointsman.api.request import InferenceRequest
from pointsman.api.result import ProfileRunResult, SchedulingResult
from pointsman.errors import ConfigError
from pointsman.framework.plugin import P, Params, ProfileHandler, RequestHeaders, register
from pointsman.framework.state import CycleState, StateKey
from pointsman.plugins.deciders._decider import judgement_key
from pointsman.plugins.profile_handlers._ranks import rank_header, to_primary_port

PREFILL_HEADER = "x-prefiller-host-port"
ENCODE_HEADER = "x-encoder-hosts-ports"

Run = Callable[[str], ProfileRunResult]
_Name = Annotated[str, Meta(min_length=1)]


class StageProfiles(Params, frozen=True):
    """Names of the profiles that choose for each stage."""

    decode: _Name = "decode"
    prefill: _Name = "prefill"
    encode: _Name = "encode"


class StageDeciders(Params, frozen=True):
    """Names of the plugins that say whether a stage is done elsewhere; ``""``: it never is."""

    prefill: str = ""
    encode: str = ""


class DisaggParams(Params, frozen=True):
    """Parameters of ``disagg-profile-handler``: llm-d's, and ``maxEncoders``.

    Raises:
        ValueError: ``stageOrder: prefill-first`` with a decider for prefill.
    """

    stage_order: Annotated[
        Literal["decode-first", "prefill-first"],
        Meta(
            description="decode-first: a decider sees the endpoint that decodes. prefill-first: every request is "
            "prefilled elsewhere, and the decode profile sees where (topology-affinity plugins)."
        ),
    ] = "decode-first"
    profiles: Annotated[
        StageProfiles, Meta(description="Profiles by stage: decode = decode, prefill = prefill, encode = encode.")
    ] = StageProfiles()
    deciders: Annotated[
        StageDeciders,
        Meta(
            description="Plugins that say whether a stage is done elsewhere: prefill = none, encode = none. A stage "
            "without one is done by the endpoint that decodes."
        ),
    ] = StageDeciders()
    max_encoders: Annotated[
        int,
        Meta(ge=1, le=3, description="Encoders named to the proxy, which spreads a request's items over them."),
    ] = 1

    def __post_init__(self) -> None:
        if self.stage_order == "prefill-first" and self.deciders.prefill:
            raise ValueError("deciders.prefill looks at the endpoint that decodes, unknown yet with prefill-first")


class PdParams(Params, frozen=True):
    """Parameters of ``pd-profile-handler``, as in llm-d."""

    decode_profile: Annotated[str, Meta(min_length=1, description="Profile that chooses who decodes.")] = "decode"
    prefill_profile: Annotated[str, Meta(min_length=1, description="Profile that chooses who prefills.")] = "prefill"
    decider_plugin_name: Annotated[
        str, Meta(min_length=1, description="Plugin that says whether to prefill elsewhere.")
    ] = "prefix-based-pd-decider"
    primary_port: Annotated[
        int,
        Meta(
            ge=0,
            le=65_535,
            description="Port of the pods' proxies when the endpoints are data-parallel ranks; 0: they are not.",
        ),
    ] = 0
    prefix_plugin_type: Annotated[str, Meta(description="Accepted for llm-d's sake, without effect.")] = ""
    prefix_plugin_name: Annotated[str, Meta(description="Accepted for llm-d's sake, without effect.")] = ""
    prefix_match_info_producer_name: Annotated[
        str, Meta(description="Accepted for llm-d's sake, without effect: the decider has it as its own parameter.")
    ] = ""


class _Stages(ProfileHandler[P], RequestHeaders):
    """Common to both; :meth:`setup` says what is asked for in the newer one's words."""

    formula = f"decode, then encode and prefill where their deciders want it; {PREFILL_HEADER}, {ENCODE_HEADER}"
    inputs = "the deciders' judgement, the profiles' choices"
    primary_port = 0
    fields: ClassVar[Mapping[str, str]] = {}
    """What parameters are called, where it is not as in the newer one."""

    def setup(self) -> None:
        self._counts: Counter[str] = Counter()
        self._asked = self.asked()

    def asked(self) -> DisaggParams:
        """The parameters in the newer form."""
        raise NotImplementedError

    def consumes(self) -> tuple[StateKey[Any], ...]:
        deciders = self._asked.deciders
        return tuple(judgement_key(name) for name in (deciders.prefill, deciders.encode) if name)

    def stats(self) -> dict[str, int]:
        """Requests by what became of them.

        ``decode-only``, ``prefill``, ``encode``; and why a stage that was wanted is not done elsewhere:
        ``no-prefill-endpoint``, ``no-encode-endpoint``, ``same-endpoint``.
        """
        return dict(self._counts)

    def main_profile(self) -> str:
        return self._asked.profiles.decode

    def check(self, profiles: Collection[str], plugins: Collection[str]) -> None:
        asked, fields = self._asked, self.fields
        deciders = msgspec.structs.asdict(asked.deciders)
        for stage, name in deciders.items():
            if name and name not in plugins:
                field = fields.get(f"deciders.{stage}", f"deciders.{stage}")
                raise ConfigError(f"parameters.{field}: no plugin is named {name!r}", hint="add it to `plugins`")
        needed = {"decode"} | {stage for stage, name in deciders.items() if name}
        if asked.stage_order == "prefill-first":
            needed.add("prefill")
        for stage in sorted(needed):
            name = getattr(asked.profiles, stage)
            if name not in profiles:
                field, hint = fields.get(f"profiles.{stage}", f"profiles.{stage}"), f"profiles: {', '.join(profiles)}"
                raise ConfigError(f"parameters.{field}: no profile is named {name!r}", hint=hint)

    def handle_profiles(
        self, request: InferenceRequest, profiles: Sequence[str], run: Run, state: CycleState
    ) -> SchedulingResult:
        names, deciders = self._asked.profiles, self._asked.deciders
        results: dict[str, ProfileRunResult] = {}

        def choose(profile: str) -> Endpoint | None:
            results[profile] = result = run(profile)
            return result.targets[0] if result.targets else None

        def wanted(decider: str, decode: Endpoint | None) -> bool:
            judge = state.get(judgement_key(decider)) if decider else None
            return judge is not None and judge(request, decode, state)

        prefill_first = self._asked.stage_order == "prefill-first"
        decode = None if prefill_first else choose(names.decode)
        chosen: dict[str, Endpoint | None] = {}
        if prefill_first:
            chosen["prefill"] = choose(names.prefill)
        if (prefill_first or decode) and wanted(deciders.encode, decode):
            chosen["encode"] = choose(names.encode)
        if prefill_first:
            decode = choose(names.decode)
        elif decode and wanted(deciders.prefill, decode):
            chosen["prefill"] = choose(names.prefill)
        stages = self._stages(decode, chosen)
        if self.primary_port:
            results[names.decode] = to_primary_port(results[names.decode], self.primary_port)
        return SchedulingResult(names.decode, results, stages)

    def _stages(self, decode: Endpoint | None, chosen: Mapping[str, Endpoint | None]) -> dict[str, str]:
        """Which stages are really done elsewhere, and the profile of each."""
        if decode is None:
            return {}
        stages: dict[str, str] = {}
        computes = decode
        for stage in ("prefill", "encode"):
            if stage not in chosen:
                continue
            endpoint = chosen[stage]
            if endpoint is None:
                self._counts[f"no-{stage}-endpoint"] += 1
            elif endpoint.id == computes.id:
                self._counts["same-endpoint"] += 1  # it would fetch from itself what it has
            else:
                self._counts[stage] += 1
                stages[stage] = getattr(self._asked.profiles, stage)
                computes = endpoint if stage == "prefill" else computes
        if not stages:
            self._counts["decode-only"] += 1
        return stages

    def request_headers(
        self, request: InferenceRequest, result: SchedulingResult, state: CycleState
    ) -> Mapping[str, str]:
        headers = rank_header(result) if self.primary_port else {}
        if result.prefiller is not None:
            headers[PREFILL_HEADER] = result.prefiller.hostport
        encode = result.stages.get("encode")
        if encode is not None:
            computes = result.prefiller or result.chosen
            encoders = [e for e in result.profiles[encode].targets if e.id != computes.id]
            headers[ENCODE_HEADER] = ",".join(e.hostport for e in encoders[: self._asked.max_encoders])
        return headers


@register("disagg-profile-handler")
class DisaggProfileHandler(_Stages[DisaggParams]):
    """Chooses who decodes, and who encodes and prefills for it.

    A stage for which there is no endpoint is done by the one that decodes, and so is one whose endpoint would be the
    same.
    """

    def asked(self) -> DisaggParams:
        return self.params


@register("pd-profile-handler")
class PdProfileHandler(_Stages[PdParams]):
    """llm-d's old handler of prefill and decode; ``disagg-profile-handler`` does the same and more."""

    fields: ClassVar[Mapping[str, str]] = {
        "deciders.prefill": "deciderPluginName",
        "profiles.decode": "decodeProfile",
        "profiles.prefill": "prefillProfile",
    }

    def setup(self) -> None:
        super().setup()
        self.primary_port = self.params.primary_port

    def asked(self) -> DisaggParams:
        params = self.params
        return DisaggParams(
            profiles=StageProfiles(decode=params.decode_profile, prefill=params.prefill_profile),
            deciders=StageDeciders(prefill=params.decider_plugin_name),
        )
