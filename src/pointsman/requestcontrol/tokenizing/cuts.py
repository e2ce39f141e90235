"""Where a text may be cut so that its pieces, tokenized apart, give the tokens of the whole.

A tokenizer first takes its added tokens out of the text and tokenizes what lies between them piece by piece, so
nothing merges across one. That holds for tokens matched in the text as written (``normalized`` false) that take no
blanks along and that no other added token can hide. Everything doubtful is left out: a text with fewer cuts costs
time, one cut wrongly would cost truth.
"""

from __future__ import annotations

import re
from collections.abc import Container, Iterable, Mapping
from itertools import pairwise
from typing import Any


def safe_cuts(added_tokens: Iterable[Mapping[str, Any]], wanted: Container[str]) -> dict[str, int]:
    """Added tokens to cut before, with their ids.

    Args:
        added_tokens: entries of ``added_tokens`` in ``tokenizer.json``.
        wanted: texts worth cutting at, such as a whole chat template.
    """
    entries = list(added_tokens)
    if any(entry.get("single_word") for entry in entries):
        return {}  # whether such a token matches depends on its neighbours
    literal = [str(entry["content"]) for entry in entries if not entry.get("normalized")]
    return {
        entry["content"]: int(entry["id"])
        for entry in entries
        if entry["content"] in wanted and _plain(entry) and not any(_hides(o, entry["content"]) for o in literal)
    }


def cut_pattern(cuts: Iterable[str]) -> re.Pattern[str] | None:
    """Matches every cut; of two that begin alike the longer, as the tokenizer does."""
    ordered = sorted(cuts, key=len, reverse=True)
    return re.compile("|".join(map(re.escape, ordered))) if ordered else None


def pieces(text: str, pattern: re.Pattern[str]) -> list[str]:
    """The text cut before every match: all pieces but the first begin with an added token."""
    starts = [match.start() for match in pattern.finditer(text)]
    bounds = [0, *starts, len(text)]
    return [text[start:end] for start, end in pairwise(bounds)]


def _plain(entry: Mapping[str, Any]) -> bool:
    content = str(entry["content"])
    return not (
        not content
        or entry.get("normalized")
        or entry.get("lstrip")
        or entry.get("rstrip")
        or any(character.isspace() for character in content)
        or _overlap(content, content)
    )


def _hides(other: str, cut: str) -> bool:
    """Whether a match of ``other`` can lie over the beginning of a ``cut``: the leftmost, then longest match wins."""
    return other != cut and (cut in other or _overlap(other, cut))


def _overlap(left: str, right: str) -> bool:
    """Whether a proper end of ``left`` is a proper beginning of ``right``."""
    return any(left.endswith(right[:size]) for size in range(1, min(len(left), len(right))))
