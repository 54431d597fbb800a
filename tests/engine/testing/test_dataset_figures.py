"""Sentences that cannot be evaluated: they are refused before any picture is looked at."""

import json

import pytest
from evaluation_data import write_flickr

from maskrcnn_benchmark.config import default_config
from maskrcnn_benchmark.data.datasets import FlickrDataset
from maskrcnn_benchmark.engine.testing.dataset_figures import check_sentences


@pytest.mark.parametrize(
    ("section", "key", "has_entities", "message"),
    [
        ("images", "original_img_id", True, "image 2 has no original_img_id, which recall on Flickr30k Entities needs"),
        ("images", "sentence_id", True, "image 2 has no sentence_id, which recall on Flickr30k Entities needs"),
        ("images", "sentence_id", False, ""),
        ("annotations", "tokens_positive", False, "annotation 2 of image 1 has no tokens_positive, the characters"),
    ],
)
def test_sentences_without_what_their_evaluation_needs(tmp_path, section, key, has_entities, message):
    write_flickr(tmp_path)
    path = tmp_path / "mdetr_annotations/final_flickr_separateGT_test.json"
    content = json.loads(path.read_text())
    del content[section][1][key]
    path.write_text(json.dumps(content))
    cfg = default_config()
    cfg.DATASETS.FLICKR_ENTITIES = str(tmp_path / "flickr30k/flickr30k") if has_entities else ""
    data = FlickrDataset(tmp_path, path)
    if message:
        with pytest.raises(ValueError, match=message):
            check_sentences(data, cfg)
    else:
        check_sentences(data, cfg)


def test_unknown_protocol(tmp_path):
    """Anything but "merged" would be taken for ANY-BOX."""
    write_flickr(tmp_path)
    cfg = default_config()
    cfg.DATASETS.FLICKR_GT_TYPE = "merge"
    with pytest.raises(ValueError, match="FLICKR_GT_TYPE='merge': known are separate, merged"):
        check_sentences(FlickrDataset(tmp_path, tmp_path / "mdetr_annotations/final_flickr_separateGT_test.json"), cfg)
