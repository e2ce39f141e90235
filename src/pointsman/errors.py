"""One exception tree.

Each class says how it ends up at a client: an HTTP status, a slug (``reason``) that is used alike in logs, metric
labels and records, and, where the Endpoint Picker contract knows one, the value of the drop-reason header.
Raise inside; foreign errors are mapped at the edge; :func:`pointsman.extproc.refusals.refusal` is the one place that
turns an error into an HTTP answer.
"""

from __future__ import annotations

from typing import ClassVar


class PointsmanError(Exception):
    """Root of every error that Pointsman raises on purpose."""

    http_status: ClassVar[int] = 500
    reason: ClassVar[str] = "internal"
    code: ClassVar[str] = "Internal"
    drop_reason: ClassVar[str | None] = None


class ConfigError(PointsmanError):
    """A configuration or endpoint file that cannot be used.

    Attributes:
        message: what is wrong, in words.
        source: the file's path, or a name such as ``preset:brief``.
        line: 1-based line, or None when unknown.
        field: dotted path of the field, such as ``plugins[2].parameters.maxQueueLength``.
        hint: how to mend it ("did you mean ...?"), or None.
    """

    reason = "config"
    code = "ConfigError"

    def __init__(
        self,
        message: str,
        *,
        source: str | None = None,
        line: int | None = None,
        field: str | None = None,
        hint: str | None = None,
    ) -> None:
        self.message, self.source, self.line, self.field, self.hint = message, source, line, field, hint
        super().__init__(str(self))

    def __str__(self) -> str:
        where = ":".join(str(part) for part in (self.source, self.line) if part is not None)
        parts = [where, self.field or "", self.message]
        text = ": ".join(part for part in parts if part)
        return f"{text} ({self.hint})" if self.hint else text

    def at(self, source: str | None = None, line: int | None = None, field: str | None = None) -> ConfigError:
        """A copy that also says where; what is already known is kept."""
        return type(self)(
            self.message,
            source=self.source or source,
            line=self.line if self.line is not None else line,
            field=self.field or field,
            hint=self.hint,
        )


class ConfigErrors(ConfigError):  # noqa: N818 - it is several
    """Several things wrong in one file; the text has a line for each."""

    def __init__(self, errors: list[ConfigError]) -> None:
        self.errors = tuple(errors)
        super().__init__("\n".join(str(error) for error in errors))

    def at(self, source: str | None = None, line: int | None = None, field: str | None = None) -> ConfigErrors:
        return ConfigErrors([error.at(source, line, field) for error in self.errors])


class TraceError(ConfigError):
    """A recorded workload that cannot be read: which file, line and field, and what was expected there."""

    reason = "trace"
    code = "TraceError"


class PluginError(PointsmanError):
    """A plugin broke its contract: wrong length, an endpoint it was not given, a key it did not declare."""

    reason = "plugin"
    code = "PluginError"


class StateError(PluginError):
    """A CycleState key read before it was written, or written twice."""

    reason = "state"


class PluginTimeoutError(PluginError):
    """A plugin held the picker up for so long that it was cut off."""

    reason = "plugin-timeout"


class PluginBenchedError(PluginError):
    """A plugin that was cut off too often is left out for a while."""

    reason = "plugin-benched"


class RequestError(PointsmanError):
    """Base of what a client is told; the message is shown to the client, so it holds no internals."""

    reason = "request"


class BadRequestError(RequestError):
    """The request itself cannot be understood."""

    http_status = 400
    reason = "bad-request"
    code = "BadRequest"


class BodyTooLargeError(RequestError):
    """The body is over the configured limit."""

    http_status = 413
    reason = "body-too-large"
    code = "PayloadTooLarge"


class NoEndpointsError(RequestError):
    """No endpoint exists that could serve the request (503: there is no capacity)."""

    http_status = 503
    reason = "no-endpoints"
    code = "ServiceUnavailable"
    drop_reason = "rejected-no-endpoints"


class SaturatedError(RequestError):
    """Endpoints exist, but the filters left none of them (429: capacity exists but is contended)."""

    http_status = 429
    reason = "saturated"
    code = "ResourceExhausted"
    drop_reason = "rejected-saturated"


class AdmissionDeniedError(RequestError):
    """An Admitter refused: 429 when it may pass later, 403 when it never will."""

    http_status = 429
    reason = "admission-denied"
    code = "AdmissionDenied"
    drop_reason: ClassVar[str | None] = "rejected-saturated"


class ForbiddenError(AdmissionDeniedError):
    """An Admitter refused for good."""

    http_status = 403
    reason = "forbidden"
    code = "Forbidden"
    drop_reason = None


class ShuttingDownError(RequestError):
    """The picker is draining."""

    http_status = 503
    reason = "shutting-down"
    code = "ServiceUnavailable"
    drop_reason = "rejected-shutting-down"


class StartupError(PointsmanError):
    """A process, port or file that is needed to run is not to be had; the message says what to do."""

    reason = "startup"
    code = "StartupError"
