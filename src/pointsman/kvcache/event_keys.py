"""Own block keys of announced blocks: what the tokens, adapter, cache salt and images of an event chain to.

They equal the keys of a request with the same tokens and extras, whatever algorithm and seed the engine hashes with.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from pointsman.kvcache.blocks import chain_seed, token_block_key_array, token_block_keys
from pointsman.kvcache.events import BlockStored

_TAGGED_SALT, _TAGGED_LORA = "cache_salt", "lora"
_TAGS = frozenset({_TAGGED_SALT, _TAGGED_LORA, "mm", "prompt_embeds"})


class BlockExtras:
    """What besides tokens went into one block: a cache salt (it seeds the chain), ids of images and the like."""

    __slots__ = ("ids", "salt")

    def __init__(self, entry: Any, adapter: str | None, *, first: bool) -> None:
        """Read one entry of vLLM's ``extra_keys``.

        Args:
            entry: None or an untagged list of adapter, (multimodal id, offset) pairs and, in the first block, a salt.
            adapter: the adapter of the event, which is no extra.
            first: whether the block begins a prompt; only there a bare string is a salt.
        """
        self.salt: str | None = None
        self.ids: list[str] = []
        items = entry if isinstance(entry, list | tuple) else ()
        for at, item in enumerate(items):
            if at == 0 and item == adapter and adapter is not None:
                continue
            if isinstance(item, list | tuple):
                self._read_group(item)
            elif first and isinstance(item, str):
                if self.salt is not None:
                    self.ids.append(self.salt)  # vLLM 0.17 has bare image ids too; the salt comes last
                self.salt = item
            else:
                self.ids.append(item.hex() if isinstance(item, bytes) else str(item))

    def _read_group(self, item: Sequence[Any]) -> None:
        tagged = len(item) > 1 and isinstance(item[0], str) and item[0] in _TAGS and isinstance(item[1], str)
        if not tagged:
            # The id alone: where in the block it lies shows in the placeholder tokens.
            self.ids.extend(str(part) for part in item[:1])
        elif item[0] == _TAGGED_SALT:
            self.salt = item[1]
        elif item[0] != _TAGGED_LORA:
            self.ids.append(item[1])


def root_key(model: str, adapter: str | None = None, salt: str | None = None) -> int:
    """Key before the first block of a prompt; requests must begin with it too."""
    return chain_seed(model, adapter or "", salt or "")


def with_ids(parent: int, ids: Sequence[str]) -> int:
    """Key before a block that holds images or the like; in requests too, their ids in the order of the prompt."""
    return chain_seed(str(parent), *ids) if ids else parent


def stored_keys(event: BlockStored, model: str, parent: int | None) -> Sequence[int]:
    """Keys of an event's blocks, whose tokens must pair up with its hashes.

    Args:
        event: at least one block.
        model: what the chain starts from.
        parent: key of the block before, None when the event begins a prompt.
    """
    tokens, size, extras = event.tokens, event.block_size, event.extra_keys
    first = parent is None
    if not extras or not any(extras):
        return token_block_key_array(
            tokens, size, root_key(model, event.adapter, event.cache_salt) if parent is None else parent
        )
    parsed = [BlockExtras(entry, event.adapter, first=first and at == 0) for at, entry in enumerate(extras)]
    if parent is None:
        parent = root_key(model, event.adapter, event.cache_salt or parsed[0].salt)
    keys: list[int] = []
    start, blocks = 0, len(event.hashes)
    while start < blocks:
        end = start + 1  # a run: one block, with ids or not, and those after it that have none
        while end < blocks and not (end < len(parsed) and parsed[end].ids):
            end += 1
        ids = parsed[start].ids if start < len(parsed) else ()
        keys += token_block_keys(tokens[start * size : end * size], size, with_ids(parent, ids))
        parent, start = keys[-1], end
    return keys
