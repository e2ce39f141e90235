"""The model's name: replaced in a request without touching any other byte, and put back in its answer."""

from __future__ import annotations

import json
import re

import msgspec

from pointsman.errors import BadRequestError

_FIELDS = msgspec.json.Decoder(dict[str, msgspec.Raw])
_FIELD = re.compile(rb'[ \t\r\n,]*("[^"\\]*(?:\\.[^"\\]*)*")[ \t\r\n]*:[ \t\r\n]*', re.DOTALL)
_END = re.compile(rb"[ \t\r\n]*}")

_KEY = b'"model"'
_MAX_BLANKS = 4
"""Blanks looked over on either side of a colon; servers write none or one."""


def replace_model(body: bytes, target: str) -> bytes:
    """Put ``target`` in the place of the top-level ``model`` of a JSON object.

    A body without the key, or one that is no JSON object, is returned as it is.

    Raises:
        BadRequestError: a key comes twice: readers disagree which one counts, so that a client could ask for one model
            and get another.
    """
    try:
        fields = _FIELDS.decode(body)
    except (msgspec.DecodeError, UnicodeError, RecursionError):
        return body
    if "model" not in fields:
        return body
    # The decoder has found out how long each value is, fifty times as fast as anything that could be written here.
    at, start, end = body.index(b"{") + 1, 0, 0
    for key, raw in fields.items():
        found = _FIELD.match(body, at)
        value = bytes(raw)
        if found is None or json.loads(found.group(1)) != key or not body.startswith(value, found.end()):
            raise _twice()
        at = found.end() + len(value)
        if key == "model":
            start, end = found.end(), at
    if _END.match(body, at) is None:
        raise _twice()
    return b"".join((body[:start], json.dumps(target).encode(), body[end:]))


def _twice() -> BadRequestError:
    return BadRequestError("the body has a key twice, so that its model cannot be replaced")


class ModelRestorer:
    """Puts the name that a client asked for back into an answer that comes in pieces, wherever these are cut.

    Every ``"model":"<target>"`` is changed: answers carry it at the top or, in events of some APIs, one level below.
    What may be the beginning of one is held back until the next piece; that is never more than the length of one.
    """

    def __init__(self, target: str, original: str) -> None:
        # servers write other characters than ASCII as they are or as escapes
        self._names = tuple({json.dumps(target, ensure_ascii=escaped).encode() for escaped in (True, False)})
        blanks = rb"[ \t\r\n]{0,%d}" % _MAX_BLANKS
        names = b"|".join(map(re.escape, self._names))
        self._pattern = re.compile(b"(" + _KEY + blanks + b":" + blanks + b")(?:" + names + b")")
        self._original = json.dumps(original).encode()
        self._window = len(_KEY) + 2 * _MAX_BLANKS + max(map(len, self._names))
        self._held = b""

    @property
    def held(self) -> bytes:
        """What was held back so far and must still go out if no other piece comes."""
        return self._held

    def feed(self, piece: bytes, *, last: bool = False) -> bytes:
        """Take the next piece; answer with what may go on."""
        data = self._held + piece if self._held else piece
        if _KEY in data:
            data = self._pattern.sub(self._change, data)
        cut = len(data) if last else self._cut(data)
        self._held = data[cut:]
        return data[:cut] if self._held else data

    def _change(self, found: re.Match[bytes]) -> bytes:
        return found.group(1) + self._original

    def _cut(self, data: bytes) -> int:
        """Where the first possible beginning lies at the end of the data."""
        at = data.find(b'"', max(0, len(data) - self._window))
        while at >= 0:
            if self._may_begin(data[at:]):
                return at
            at = data.find(b'"', at + 1)
        return len(data)

    def _may_begin(self, tail: bytes) -> bool:
        if not tail.startswith(_KEY):
            return _KEY.startswith(tail)
        rest = tail[len(_KEY) :].lstrip(b" \t\r\n")
        if not rest:
            return True
        if not rest.startswith(b":"):
            return False
        rest = rest[1:].lstrip(b" \t\r\n")
        return any(name.startswith(rest) for name in self._names)
