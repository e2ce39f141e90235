"""Prefer the pods of the tier that the client asks for."""

from pointsman.framework.plugin import Params, Scorer, register


class TierParams(Params):
    header: str = "x-tier"


@register("tier-scorer")
class TierScorer(Scorer[TierParams]):
    def score(self, request, endpoints, state):
        tier = request.headers.get(self.params.header)
        return [1.0 if e.labels.get("tier") == tier else 0.0 for e in endpoints]
