"""The tokenizer and chat template of the model that the captured vLLM servers ran: a folder as models come in."""

from __future__ import annotations

import atexit
import gzip
import shutil
import tempfile
from functools import cache
from pathlib import Path

from tests.builders import make_request

from pointsman.api.request import InferenceRequest

DATA = Path(__file__).parents[2] / "data"
CHAT, TEXT = "/v1/chat/completions", "/v1/completions"


@cache
def tiny_folder() -> Path:
    """The model's folder; not to be written to."""
    folder = Path(tempfile.mkdtemp(prefix="tiny-tokenizer-"))
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    source = DATA / "tiny_tokenizer"
    (folder / "tokenizer.json").write_bytes(gzip.decompress((source / "tokenizer.json.gz").read_bytes()))
    for name in ("tokenizer_config.json", "chat_template.jinja"):
        shutil.copy(source / name, folder / name)
    return folder


def asked(body: bytes, path: str = CHAT) -> InferenceRequest:
    """A request as the parser would hand it over."""
    return make_request(body, path=path, model="tiny", target_model="tiny")
