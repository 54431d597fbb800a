"""Recorded numbers and tokenizers for the tests of texts."""

import json
from pathlib import Path

import pytest

from maskrcnn_benchmark.text.tokenizer import build_tokenizer

GOLDEN = Path(__file__).parents[1] / "golden" / "text"


@pytest.fixture(scope="session")
def bert_tokenizer(bert_vocabulary):
    return build_tokenizer(bert_vocabulary)


@pytest.fixture(scope="session")
def tokenization():
    return json.loads((GOLDEN / "tokenization.json").read_text(encoding="utf-8"))
