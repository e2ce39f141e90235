"""Encode elsewhere what is not text."""

from __future__ import annotations

import re

from pointsman.api.endpoint import Endpoint
from pointsman.api.request import InferenceRequest
from pointsman.framework.plugin import Params, register
from pointsman.framework.state import CycleState
from pointsman.plugins.deciders._decider import StageDecider

_MESSAGE_END, _ROLE_END = b"\x1e", b"\x1f"
"""As the parsers put them between the parts of a conversation's canonical bytes."""

_MEDIA = re.compile(
    rb'"type"\s*:\s*"(?:image_url|input_image|image|video_url|video|input_audio|audio_url|audio)"',
)
"""Of OpenAI's chat and Responses, of Anthropic and of vLLM. Inside a JSON string its quotes would be escaped."""


class AlwaysDisaggMultimodalParams(Params, frozen=True):
    """``always-disagg-multimodal-decider`` takes no parameters."""


@register("always-disagg-multimodal-decider")
class AlwaysDisaggMultimodal(StageDecider[AlwaysDisaggMultimodalParams]):
    """Looks for content blocks that are not text, in the first megabyte of the prompt.

    One further back is not seen, and then the pod that prefills encodes it too.
    """

    formula = "if a content block of the request is an image, a video or audio"
    inputs = "types of the content blocks of the prompt"

    def wanted(self, request: InferenceRequest, decode: Endpoint | None, state: CycleState) -> bool:
        if _MEDIA.search(request.prompt) is None:
            return False
        # now that it may be there, see that it is a block and not a text that talks of one
        contents = (part.rpartition(_ROLE_END)[2] for part in request.prompt.split(_MESSAGE_END))
        return any(content.startswith(b"[") and _MEDIA.search(content) for content in contents)
