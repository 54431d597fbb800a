"""Every built-in set of captions with boxes: from files in their places to a step of training, and exact conversion."""

import json
import random

import pytest
import torch
from data_files import IMAGE_SIZE
from mdetr_files import CAPTION, box, record, write_built_in
from PIL import Image
from tiny_detector import tiny_config

from maskrcnn_benchmark.config import path_search
from maskrcnn_benchmark.config.paths_catalog import DATASETS
from maskrcnn_benchmark.data.build import build_datasets, make_data_loader
from maskrcnn_benchmark.data.datasets import ModulatedDataset
from maskrcnn_benchmark.modeling.detector import build_detection_model
from maskrcnn_benchmark.text.tokenizer import build_tokenizer

WIDTH, HEIGHT = IMAGE_SIZE
CLASSES = {
    "mixed_train": "MixedDataset",
    "mixed_train_no_coco": "MixedDataset",
    "flickr30k_train": "FlickrDataset",
    "flickr30k_val": "FlickrDataset",
    "refexp_all_val": "RefExpDataset",
    "gqa_val": "GQADataset",
    "phrasecut_train": "PhrasecutDetection",
}


@pytest.fixture(scope="module")
def model(text_folder):
    torch.manual_seed(0)
    return build_detection_model(tiny_config(text_folder)).train()


@pytest.fixture
def cfg(text_folder, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(path_search, "REPOSITORY_ROOT", tmp_path)
    monkeypatch.setenv("DATASET", str(tmp_path / "disk"))
    sizes = ("INPUT.MIN_SIZE_TRAIN", 64, "INPUT.MIN_SIZE_TEST", 64, "AUGMENT.MULT_MIN_SIZE_TRAIN", (64,))
    solver = ("SOLVER.IMS_PER_BATCH", 2, "SOLVER.MAX_EPOCH", 0, "SOLVER.MAX_ITER", 1)
    return tiny_config(text_folder, *sizes, *solver, "DATALOADER.NUM_WORKERS", 0, "TEST.IMS_PER_BATCH", 1)


@pytest.mark.parametrize("name", CLASSES)
def test_from_the_catalogue_to_a_step_of_training(cfg, model, tmp_path, name):
    write_built_in(tmp_path / "disk", name)
    cfg.DATASETS.TRAIN = (name,)
    (dataset,) = build_datasets(cfg, is_train=True)
    assert type(dataset).__name__ == CLASSES[name] and dataset.ids == [1, 2], "the sentence without a box is left out"
    ((images, targets, _, positive_map, positive_map_eval, greenlight_map),) = list(make_data_loader(cfg))
    captions = [target.get_field("caption") for target in targets]
    assert captions == [CAPTION] * 2 and len(positive_map) == 3 and greenlight_map.shape == (2, 48)
    losses = model(images, targets, captions, positive_map, greenlight_map=greenlight_map)
    total = sum(losses.values())
    model.zero_grad()
    total.backward()
    assert torch.isfinite(total)
    assert max(float(p.grad.abs().max()) for p in model.parameters() if p.grad is not None) > 0


@pytest.mark.parametrize("name", [name for name in CLASSES if "mixed" not in name])
def test_evaluation_items_keep_their_names(cfg, tmp_path, name):
    write_built_in(tmp_path / "disk", name)
    cfg.DATASETS.TEST = (name,)
    (dataset,) = build_datasets(cfg, is_train=False)
    (_, first, _), (_, second, _) = dataset[0], dataset[1]
    assert [first.get_field(key) for key in ("sentence_id", "original_img_id", "original_id", "task_id")] == [
        3,
        70,
        8,
        0,
    ]
    assert first.get_field("dataset_name") == name and not second.has_field("sentence_id")
    expected = None if DATASETS[name].get("is_train") else (2, 48)
    shape = tuple(first.get_field("positive_map_eval").shape) if first.has_field("positive_map_eval") else None
    assert shape == expected, "an entry says whether its phrases are there to evaluate"


def test_mixed_pictures_come_from_two_folders(cfg, tmp_path):
    write_built_in(tmp_path / "disk", "mixed_train")
    cfg.DATASETS.TRAIN, cfg.DATASETS.MIXED_COPY = ("mixed_train",), 3
    (copies,) = build_datasets(cfg, is_train=True)
    assert len(copies) == 6
    dark, light = (float(copies[index][0].mean()) for index in (0, 1))
    assert light > dark and [copies[index][2] for index in (0, 3)] == [0, 1]


def literal_item(annotations: list[dict], tokenizer, caption: str, length: int):
    """The conversion of one sentence, written out step by step: boxes, labels, area, spans and normalised map."""
    encoding = tokenizer(caption)
    rows, boxes, labels, areas, spans = [], [], [], [], []
    for annotation in annotations:
        if annotation["iscrowd"]:
            continue
        x, y, width, height = annotation["bbox"]
        x1, x2 = (min(max(value, 0), WIDTH - 1) for value in (x, x + width - 1))
        y1, y2 = (min(max(value, 0), HEIGHT - 1) for value in (y, y + height - 1))
        if not (x2 > x1 and y2 > y1):
            continue
        row = [0.0] * length
        for begin, end in annotation["tokens_positive"]:
            first = next(
                (t for c in (begin, begin + 1, begin + 2) if (t := encoding.char_to_token(c)) is not None), None
            )
            last = next(
                (t for c in (end - 1, end - 2, end - 3) if c >= 0 and (t := encoding.char_to_token(c)) is not None),
                None,
            )
            if first is not None and last is not None:
                row[first : last + 1] = [1.0] * (last + 1 - first)
        rows.append([value / (sum(row) + 1e-6) for value in row])
        boxes.append([x1, y1, x2, y2])
        labels.append(annotation["category_id"])
        areas.append(annotation["area"])
        spans.append(annotation["tokens_positive"])
    return boxes, labels, areas, spans, rows


@pytest.mark.parametrize("seed", range(8))
def test_conversion_is_that_of_the_literal_steps(text_folder, tmp_path, seed):
    draw = random.Random(seed)
    caption = " ".join(draw.choice(["red", "cup ", "star", "a", "flip-flop", "  dog", "."]) for _ in range(12))
    annotations = []
    for number in range(1, 13):
        begin = draw.randrange(len(caption) - 1)
        spans = [[begin, draw.randint(begin + 1, len(caption))] for _ in range(draw.randint(1, 3))]
        corner = [draw.randint(-20, 110), draw.randint(-20, 90)]
        bbox = [*corner, draw.choice([0, 1, 2, 30, 90]), draw.choice([0, 1, 2, 25, 90])]
        annotations.append(box(number, 1, bbox, spans, category_id=number, iscrowd=int(draw.random() < 0.2)))
    annotations.append(box(13, 1, [1, 1, 20, 20], [[0, 3]]))
    Image.new("RGB", IMAGE_SIZE).save(tmp_path / "a.png")
    content = {"images": [record(1, caption=caption)], "annotations": annotations, "categories": []}
    (tmp_path / "sentences.json").write_text(json.dumps(content))
    tokenizer = build_tokenizer(str(text_folder))
    data = ModulatedDataset(tmp_path, tmp_path / "sentences.json", None, tokenizer=tokenizer, is_train=True)
    _, target, _ = data[0]
    boxes, labels, areas, spans, rows = literal_item(annotations, tokenizer, caption, 256)
    assert target.bbox.tolist() == target.get_field("boxes").tolist() == boxes
    assert target.get_field("labels").tolist() == labels and target.get_field("area").tolist() == areas
    assert target.get_field("tokens_positive") == spans
    torch.testing.assert_close(target.get_field("positive_map"), torch.tensor(rows))
