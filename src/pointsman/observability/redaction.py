"""Configurations as they may be shown: passwords inside of addresses taken out."""

from __future__ import annotations

import re
from typing import Any

HIDDEN = "…"
_CREDENTIALS = re.compile(r"(?<=://)[^/?#\s]*@")


def without_passwords(data: Any) -> Any:
    """A copy of plain data in which ``scheme://user:password@host`` has become ``scheme://…@host``."""
    if isinstance(data, str):
        return _CREDENTIALS.sub(f"{HIDDEN}@", data)
    if isinstance(data, dict):
        return {key: without_passwords(value) for key, value in data.items()}
    if isinstance(data, list | tuple):
        return [without_passwords(value) for value in data]
    return data
