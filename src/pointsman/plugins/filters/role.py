"""Keeps endpoints that can do one stage of disaggregated serving: encode, prefill or decode."""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar

from pointsman.api.endpoint import Endpoint
from pointsman.api.request import InferenceRequest
from pointsman.framework.plugin import Filter, Params, register
from pointsman.framework.state import CycleState

ROLE_LABEL = "llm-d.ai/role"


class RoleParams(Params, frozen=True):
    """The role filters take no parameters."""


class _RoleFilter(Filter[RoleParams]):
    inputs = f"label {ROLE_LABEL}"
    mandatory = True  # an endpoint of another role cannot do the stage, however idle it is
    roles: ClassVar[frozenset[str]] = frozenset()
    unlabelled: ClassVar[bool] = False

    def filter(self, request: InferenceRequest, endpoints: Sequence[Endpoint], state: CycleState) -> Sequence[Endpoint]:
        roles, unlabelled = self.roles, self.unlabelled
        return [e for e in endpoints if (e.labels[ROLE_LABEL] in roles if ROLE_LABEL in e.labels else unlabelled)]


@register("encode-filter")
class EncodeFilter(_RoleFilter):
    """Keeps endpoints that encode images and the like."""

    formula = "keep if the role is encode, encode-prefill or encode-prefill-decode"
    roles = frozenset({"encode", "encode-prefill", "encode-prefill-decode"})


@register("prefill-filter")
class PrefillFilter(_RoleFilter):
    """Keeps endpoints that prefill; one without the label is not among them."""

    formula = "keep if the role is prefill, encode-prefill, prefill-decode, both or encode-prefill-decode"
    roles = frozenset({"prefill", "encode-prefill", "prefill-decode", "both", "encode-prefill-decode"})


@register("decode-filter")
class DecodeFilter(_RoleFilter):
    """Keeps endpoints that decode; one without the label does everything, as in llm-d."""

    formula = "keep if the role is decode, prefill-decode, both or encode-prefill-decode, or there is no role"
    roles = frozenset({"decode", "prefill-decode", "both", "encode-prefill-decode"})
    unlabelled = True
