"""Exact token ids in this process, from the files of the model's folder, by the library the engines use.

``encode`` would hold the interpreter lock all the while; ``encode_batch_fast`` releases it and skips offsets, so a
thread may tokenize beside the event loop. Nothing here is asynchronous.
"""

from __future__ import annotations

import json
import os
from array import array
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from tokenizers import Tokenizer

from pointsman.requestcontrol.tokenizing.cuts import cut_pattern, pieces, safe_cuts
from pointsman.requestcontrol.tokenizing.prefix_cache import PieceCache, Tokens
from pointsman.requestcontrol.tokenizing.prompts import ChatPrompt, Prompt
from pointsman.requestcontrol.tokenizing.template import ChatTemplate, TemplateError, find_templates, special_tokens

CACHE_BYTES = 64 * 1024 * 1024
"""About 6 million tokens of text."""

OWN_RENDERERS = frozenset({"gpt_oss", "deepseek_v32", "deepseek_v4", "kimi_k3", "inkling"})
"""``model_type`` of models whose conversations vLLM renders with code of its own instead of the chat template."""

_PROBES = ("", "probe", " two  words\n")


class Prepared(NamedTuple):
    """A prompt as text, with what is known of its tokens already.

    Attributes:
        known: ids per piece, None for those to be tokenized.
        fresh: characters to be tokenized.
        affixes: ids that go before and behind, or None when only the tokenizer can place its special tokens.
    """

    pieces: Sequence[str]
    known: list[Tokens | None]
    fresh: int
    affixes: tuple[list[int], list[int]] | None


class LocalTokenizer:
    """Tokenizes prompts of one model. Safe to use from several threads."""

    def __init__(
        self,
        definition: str,
        template: ChatTemplate | None = None,
        *,
        cut_at: str = "",
        cache_bytes: int = CACHE_BYTES,
    ) -> None:
        """Build.

        Args:
            definition: the text of ``tokenizer.json``.
            template: for conversations; without one they cannot be tokenized here.
            cut_at: text whose special tokens pieces begin at, beside the template's.
            cache_bytes: bound of the piece cache; 0 tokenizes everything every time.

        Raises:
            ValueError: if the definition is none.
        """
        # One thread per call: more would take the picker's cores, and rayon's threads do not survive a fork.
        os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
        data = json.loads(definition)
        try:
            self._tokenizer = Tokenizer.from_str(definition)
        except Exception as error:
            raise ValueError(f"no tokenizer: {error}") from error
        self._tokenizer.no_truncation()
        self._tokenizer.no_padding()
        self._template = template
        self._affixes = self._find_affixes()
        wanted = cut_at + (template.text if template else "")
        cuts = safe_cuts(data.get("added_tokens") or (), wanted) if cache_bytes else {}
        self._cuts = cuts if self._cuts_hold(cuts) else {}
        self._pattern = cut_pattern(self._cuts)
        self.cache = PieceCache(cache_bytes)

    @property
    def cuts(self) -> tuple[str, ...]:
        """Special tokens that pieces begin at; none means that every prompt is tokenized whole."""
        return tuple(self._cuts)

    def prepare(self, prompt: Prompt) -> Prepared:
        """Make the prompt's text and look up what is known of it; microseconds.

        Raises:
            TemplateError: if there is no template, or it refuses the conversation.
        """
        if isinstance(prompt, ChatPrompt):
            if self._template is None:
                raise TemplateError("the model has no chat template that could be used here")
            text = self._template.render(prompt)
        else:
            text = prompt.text
        affixes = self._affixes if prompt.add_special_tokens else ([], [])
        if affixes is None or self._pattern is None:
            return Prepared([text], [None], len(text), affixes)
        parts = pieces(text, self._pattern)
        known = self.cache.get(parts)
        fresh = sum(len(part) for part, ids in zip(parts, known, strict=True) if ids is None)
        return Prepared(parts, known, fresh, affixes)

    def finish(self, prepared: Prepared) -> Tokens:
        """Tokenize what is not known yet, remember it, and put all together."""
        if prepared.affixes is None:
            return array("I", self._encode(prepared.pieces, add_special_tokens=True)[0])
        missing = dict.fromkeys(
            part for part, ids in zip(prepared.pieces, prepared.known, strict=True) if ids is None and part
        )
        made = dict(zip(missing, self._packed(missing), strict=True))
        if self._pattern is not None:
            self.cache.put(made.items())
        before, behind = prepared.affixes
        tokens = array("I", before)
        for part, ids in zip(prepared.pieces, prepared.known, strict=True):
            if part:
                tokens.extend(made[part] if ids is None else ids)
        tokens.extend(behind)
        return tokens

    def tokens(self, prompt: Prompt) -> Tokens:
        """The token ids of a prompt.

        Raises:
            TemplateError: if there is no template, or it refuses the conversation.
        """
        return self.finish(self.prepare(prompt))

    def _packed(self, texts: Iterable[str]) -> list[Tokens]:
        return [array("I", ids) for ids in self._encode(list(texts), add_special_tokens=False)]

    def _encode(self, texts: Sequence[str], *, add_special_tokens: bool) -> list[list[int]]:
        if not texts:
            return []
        encodings = self._tokenizer.encode_batch_fast(list(texts), add_special_tokens=add_special_tokens)
        return [encoding.ids for encoding in encodings]

    def _find_affixes(self) -> tuple[list[int], list[int]] | None:
        """Ids that the tokenizer adds around every text; None when that is not all it does."""
        found: set[tuple[tuple[int, ...], tuple[int, ...]]] = set()
        bare = self._encode(_PROBES, add_special_tokens=False)
        full = self._encode(_PROBES, add_special_tokens=True)
        for inner, outer in zip(bare, full, strict=True):
            extra = len(outer) - len(inner)
            fits = {
                (tuple(outer[:at]), tuple(outer[at + len(inner) :]))
                for at in range(extra + 1)
                if inner and outer[at : at + len(inner)] == inner
            }
            if inner:
                found = fits if not found else found & fits
        if len(found) != 1:
            return None
        before, behind = found.pop()
        return list(before), list(behind)

    def _cuts_hold(self, cuts: dict[str, int]) -> bool:
        """Try every cut in a text before trusting it."""
        pattern = cut_pattern(cuts)
        if pattern is None:
            return False
        texts = [f"One  two{cut}\nthree four {cut} 5{cut}{cut}x" for cut in cuts]
        for cut, text, whole in zip(cuts, texts, self._encode(texts, add_special_tokens=False), strict=True):
            parts = self._encode(pieces(text, pattern), add_special_tokens=False)
            if [token for part in parts for token in part] != whole or any(ids[0] != cuts[cut] for ids in parts[1:]):
                return False
        return True


def load_tokenizer(path: Path, *, template: Path | None = None, cache_bytes: int = CACHE_BYTES) -> LocalTokenizer:
    """Build from a model's folder, or from a ``tokenizer.json`` in it.

    Args:
        path: the folder or file.
        template: a chat template file to use instead of the folder's.
        cache_bytes: bound of the piece cache.

    Raises:
        OSError, ValueError, TemplateError: if a file cannot be read or used.
    """
    folder = path if path.is_dir() else path.parent
    config = _read(folder / "tokenizer_config.json")
    special = special_tokens(_read(folder / "special_tokens_map.json"), config)
    sources = {"default": template.read_text("utf-8")} if template else find_templates(folder, config)
    own = _read(folder / "config.json").get("model_type") in OWN_RENDERERS
    chat = ChatTemplate(sources, special) if sources and not own else None
    definition = (folder / "tokenizer.json" if path.is_dir() else path).read_text("utf-8")
    return LocalTokenizer(definition, chat, cut_at=" ".join(special.values()), cache_bytes=cache_bytes)


def _read(path: Path) -> dict[str, Any]:
    """A JSON file that may be missing."""
    if not path.is_file():
        return {}
    data = json.loads(path.read_bytes())
    if not isinstance(data, dict):
        raise ValueError(f"{path}: expected an object")  # noqa: TRY004 - the file is wrong, not an argument
    return data
