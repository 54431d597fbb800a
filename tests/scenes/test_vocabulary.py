"""The small WordPiece vocabulary: knows every word of the generator, spells all others, fits its BERT configuration."""

import string
from pathlib import Path

import pytest
from transformers import AutoConfig, AutoTokenizer

import maskrcnn_benchmark
from maskrcnn_benchmark.scenes import COLORS, KINDS, generate_scene
from maskrcnn_benchmark.scenes.captions import RELATIONS
from maskrcnn_benchmark.scenes.render import TEXTURES
from maskrcnn_benchmark.scenes.sampling import SIZE_WORDS, SPLITS

FOLDER = Path(maskrcnn_benchmark.__file__).parent / "assets" / "scenes_bert"


@pytest.fixture(scope="module")
def tokenizer():
    return AutoTokenizer.from_pretrained(FOLDER, local_files_only=True)


def test_special_tokens(tokenizer):
    assert tokenizer.is_fast
    assert tokenizer.pad_token_id == 0
    assert tokenizer.convert_ids_to_tokens([0, 1, 2, 3, 4]) == ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]


def test_configuration_fits(tokenizer):
    config = AutoConfig.from_pretrained(FOLDER, local_files_only=True)
    assert config.model_type == "bert"
    assert config.vocab_size == len(tokenizer)
    assert config.max_position_embeddings == tokenizer.model_max_length == 256
    assert (config.hidden_size, config.num_hidden_layers, config.num_attention_heads) == (128, 3, 4)


def test_words_of_the_generator_are_whole(tokenizer):
    phrases = [*KINDS, *COLORS, *TEXTURES, *SIZE_WORDS, *RELATIONS]
    assert [tokenizer.tokenize(phrase) for phrase in phrases] == [phrase.split() for phrase in phrases]


@pytest.mark.parametrize("split", SPLITS)
def test_captions_need_no_pieces_and_stay_short(tokenizer, split):
    for index in range(30):
        for caption in generate_scene(2, split, index)[1].captions:
            tokens = tokenizer.tokenize(caption.text)
            assert not [token for token in tokens if token.startswith("##") or token == "[UNK]"], caption.text
            assert len(tokens) + 2 <= 110


def test_any_ascii_text_is_spelled(tokenizer):
    for text in ("Zyzzyva xylographs qwerty-42", string.ascii_letters, string.digits, string.punctuation, "naïve café"):
        assert "[UNK]" not in tokenizer.tokenize(text)


def test_offsets_select_the_words(tokenizer):
    text = "The small striped red star left of the blue cup."
    encoding = tokenizer(text, return_offsets_mapping=True, add_special_tokens=False)
    words = [text[begin:end].lower() for begin, end in encoding["offset_mapping"]]
    assert words == tokenizer.convert_ids_to_tokens(encoding["input_ids"])
