from __future__ import annotations

import msgspec
from tests.builders import make_request

from pointsman.requestcontrol.tokenizing.estimate import Estimate


def test_text_as_parsed() -> None:
    assert Estimate().tokens(make_request("x" * 401)) == 101
    assert Estimate().tokens(make_request("an image of text")) == 4
    assert Estimate().tokens(make_request(b"", prompt_tokens=0)) == 0


def test_images_count_by_number_not_by_bytes() -> None:
    embedded = "data:image/png;base64," + "A" * 40_000
    parts = [
        {"type": "text", "text": "x" * 400},
        {"type": "image_url", "image_url": {"url": embedded}},
        {"type": "image_url", "image_url": {"url": "http://host/picture.png"}},
    ]
    tokens = Estimate(image_tokens=225).tokens(make_request(msgspec.json.encode(parts)))
    assert 550 < tokens < 620
