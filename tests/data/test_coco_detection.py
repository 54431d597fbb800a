"""Long lists of classes in COCO format: sampled captions, file names from addresses."""

import json

import pytest
import torch
from data_files import IMAGE_SIZE, write_coco_toy
from PIL import Image

from maskrcnn_benchmark.config import CfgNode, default_config
from maskrcnn_benchmark.data.build import make_data_loader
from maskrcnn_benchmark.data.datasets import COCODataset, CocoDetectionJson
from maskrcnn_benchmark.data.datasets.coco_json import image_file
from maskrcnn_benchmark.text.tokenizer import build_tokenizer

MANY = 365


@pytest.fixture
def long_file(tmp_path):
    """The toy set with 365 classes, of which the pictures show two."""
    path = write_coco_toy(tmp_path)
    content = json.loads(path.read_text())
    content["categories"] += [{"id": 100 + i, "name": f"traffic light {i}"} for i in range(MANY - 3)]
    path.write_text(json.dumps(content))
    return path


def test_captions_name_what_is_there_and_fit(tmp_path, long_file, bert_vocabulary):
    tokenizer = build_tokenizer(bert_vocabulary)
    data = CocoDetectionJson(
        tmp_path, long_file, tokenizer=tokenizer, random_sample_negative=85,
        control_probabilities=(0.0, 0.0, 1.0, 0.0), separation_tokens=". ",
    )  # fmt: skip
    captions = set()
    for _ in range(5):
        target = data[0][1]
        caption = target.get_field("caption")
        captions.add(caption)
        tokens = tokenizer(caption).tokens()
        assert "cat" in caption.split(". ") and len(tokens) <= 256
        (row,) = target.get_field("positive_map")
        assert [tokens[i] for i in row.nonzero().flatten()] == ["cat"]
        od_labels = target.get_field("positive_map_for_od_labels")
        assert od_labels[row.nonzero()].tolist() == [[1.0]]
        assert set(od_labels.unique().tolist()) > {-1.0, 1.0}, "absent classes have their labels, too"
        assert target.get_field("original_od_label").tolist() == [1]
    assert len(captions) == 5


def test_through_the_loader(tmp_path, long_file, bert_vocabulary):
    cfg = default_config()
    cfg.MODEL.LANGUAGE_BACKBONE.TOKENIZER_TYPE = bert_vocabulary
    cfg.INPUT.MIN_SIZE_TRAIN = 80
    cfg.DATALOADER.NUM_WORKERS = 0
    cfg.DATASETS.REGISTER.object365_dt_train = CfgNode({"img_dir": str(tmp_path), "ann_file": str(long_file)})
    cfg.DATASETS.TRAIN = ("object365_dt_train",)
    cfg.DATASETS.CONTROL_PROB = (0.0, 0.0, 0.5, 0.0)
    cfg.DATASETS.RANDOM_SAMPLE_NEG = 85
    cfg.DATASETS.SEPARATION_TOKENS = ". "
    cfg.SOLVER.IMS_PER_BATCH, cfg.SOLVER.MAX_ITER = 3, 1
    ((images, targets, _, positive_map, _, greenlight_map),) = list(make_data_loader(cfg))
    assert len(images.tensors) == 3 and positive_map.shape == (2, 256) and greenlight_map.shape == (3, 256)
    assert sorted(len(target) for target in targets) == [0, 1, 1]
    assert torch.isfinite(images.tensors).all()


def test_control_probabilities_are_required(tmp_path, long_file, bert_vocabulary):
    with pytest.raises(ValueError, match="DATASETS.CONTROL_PROB"):
        CocoDetectionJson(tmp_path, long_file, tokenizer=build_tokenizer(bert_vocabulary))


def test_all_classes_in_order_need_no_control_probabilities(tmp_path, bert_vocabulary):
    data = CocoDetectionJson(
        tmp_path, write_coco_toy(tmp_path), tokenizer=build_tokenizer(bert_vocabulary), disable_shuffle=True
    )
    assert data[1][1].get_field("caption") == "cat dog absent, thing"


def test_published_lvis_records_have_no_file_name(tmp_path):
    path = write_coco_toy(tmp_path)
    content = json.loads(path.read_text())
    (tmp_path / "val2017").mkdir()
    for record in content["images"]:
        record["coco_url"] = f"http://images.cocodataset.org/val2017/{record.pop('file_name')}"
        Image.new("RGB", IMAGE_SIZE, (1, 2, 3)).save(tmp_path / "val2017" / f"{record['id']}.png")
    path.write_text(json.dumps(content))
    image, _, _ = COCODataset(path, tmp_path, True)[0]
    assert image.getpixel((0, 0)) == (1, 2, 3)
    with pytest.raises(ValueError, match="image 7 has neither file_name nor coco_url"):
        image_file({"id": 7})
