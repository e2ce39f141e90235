"""Errors as HTTP answers: the one place that turns an exception into what a client sees."""

from __future__ import annotations

import msgspec

from pointsman.errors import PointsmanError, RequestError
from pointsman.extproc.wire import Immediate

DROP_REASON = "x-llm-d-request-dropped-reason"
"""Response header that says why load was shed."""


class BodyModeError(RequestError):
    """The gateway is set to a body mode that we do not speak."""

    http_status = 500
    reason = "body-mode"


def refusal(error: Exception) -> Immediate:
    """The HTTP answer for an error: an OpenAI-style body that never holds internals of unexpected failures."""
    if isinstance(error, RequestError):
        status, code, reason, text = error.http_status, error.code, error.reason, str(error)
    else:
        status, code, reason, text = 500, PointsmanError.code, PointsmanError.reason, "the endpoint picker failed"
    drop = error.drop_reason if isinstance(error, RequestError) else None
    headers = [("content-type", "application/json"), *([(DROP_REASON, drop)] if drop else [])]
    content = {"message": f"inference error: {code} - {text}", "type": _error_type(status), "code": status}
    return Immediate(status, tuple(headers), msgspec.json.encode({"error": content}), f"pointsman_{reason}")


def _error_type(status: int) -> str:
    if status >= 500:
        return "server_error"
    return {403: "permission_error", 429: "rate_limit_error"}.get(status, "invalid_request_error")
