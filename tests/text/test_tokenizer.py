import shutil
import subprocess
import sys

import pytest

from maskrcnn_benchmark.text import tokenizer as module
from maskrcnn_benchmark.text.tokenizer import build_tokenizer, find_text_folder


@pytest.mark.parity
def test_coco_prompt(bert_tokenizer, tokenization):
    recorded = tokenization["coco80"]["queries"][0]
    encoding = bert_tokenizer(
        recorded["caption"], padding="max_length", max_length=256, truncation=True, return_special_tokens_mask=True
    )
    count = recorded["n_tokens_untruncated"]
    assert (len(recorded["caption"]), count) == (699, 194)
    assert encoding["input_ids"] == recorded["input_ids"] + [0] * (256 - count)
    assert encoding["attention_mask"] == [1] * count + [0] * (256 - count)
    assert encoding["special_tokens_mask"] == [1] + [0] * (count - 2) + [1] * (256 - count + 1)


@pytest.mark.parametrize("with_description", [False, True])
def test_a_vocabulary_alone_is_enough_for_bert(bert_tokenizer, bert_vocabulary, tmp_path, with_description):
    """Also beside a `tokenizer.json`, which does not say which of its tokens is the padding."""
    shutil.copy(f"{bert_vocabulary}/vocab.txt", tmp_path)
    if with_description:
        bert_tokenizer.backend_tokenizer.save(str(tmp_path / "tokenizer.json"))
    text = "The unicyclist's café"
    tokenizer = build_tokenizer(tmp_path)
    assert tokenizer(text)["input_ids"] == bert_tokenizer(text)["input_ids"]
    assert tokenizer.pad_token_id == 0 and tokenizer.mask_token_id == 103


@pytest.mark.parametrize("name", ["./absent", "/absent/bert", "a/b/c"])
def test_a_missing_folder_is_named(name):
    with pytest.raises(FileNotFoundError, match=f"'{name}' does not exist"):
        build_tokenizer(name)


def test_a_folder_without_a_tokenizer_is_named(tmp_path):
    with pytest.raises(FileNotFoundError, match=f"'{tmp_path}' holds no tokenizer"):
        build_tokenizer(tmp_path)


def test_an_empty_name():
    with pytest.raises(ValueError, match="tokenizer name is empty"):
        build_tokenizer("")


def test_an_unreachable_hub_says_what_to_do(monkeypatch):
    from transformers import AutoTokenizer

    def refuse(name, local_files_only):
        raise OSError("no connection")

    monkeypatch.setattr(AutoTokenizer, "from_pretrained", refuse)
    with pytest.raises(FileNotFoundError, match=r"no tokenizer 'some-bert'.*vocab\.txt"):
        build_tokenizer("some-bert")


def test_a_slow_tokenizer_is_refused(monkeypatch):
    from transformers import AutoTokenizer

    monkeypatch.setattr(
        AutoTokenizer, "from_pretrained", lambda name, local_files_only: type("Slow", (), {"is_fast": False})()
    )
    with pytest.raises(ValueError, match="'slow-bert' is not a fast one"):
        build_tokenizer("slow-bert")


def test_clip_gets_its_mask_token_only_for_mlm(monkeypatch):
    from transformers import AutoTokenizer

    class Clip:
        is_fast, mask_token = True, None

        def convert_ids_to_tokens(self, token):
            return f"token {token}"

    loaded = []
    monkeypatch.setattr(AutoTokenizer, "from_pretrained", lambda name, **options: loaded.append(name) or Clip())
    assert build_tokenizer("clip").mask_token is None
    assert build_tokenizer("clip", mlm=True).mask_token == "token 49404"
    assert loaded == ["openai/clip-vit-base-patch32"] * 2


def test_packaged_folders_are_found_by_name(monkeypatch, tmp_path):
    (tmp_path / "assets" / "small").mkdir(parents=True)
    monkeypatch.setattr(module, "_ASSETS", tmp_path / "assets")
    assert find_text_folder("small") == tmp_path / "assets" / "small"
    assert find_text_folder(tmp_path) == tmp_path
    assert find_text_folder("bert-base-uncased") is None


def test_importing_the_package_loads_no_language_library():
    code = (
        "import sys, maskrcnn_benchmark.text.prompt, maskrcnn_benchmark.text.tokenizer, maskrcnn_benchmark.text;"
        "sys.exit(str([m for m in ('nltk', 'inflect', 'transformers') if m in sys.modules] or ''))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.stderr.strip() == ""
