"""The evaluation loop with a model that knows the answers."""

import json
import os
from pathlib import Path

import pytest
import torch
from data.test_every_type import CAPTIONED, CLOSED
from data_files import write_coco_toy, write_grounding_toy
from evaluation_data import write_flickr

from maskrcnn_benchmark.config import CfgNode, default_config
from maskrcnn_benchmark.data.build import make_data_loader
from maskrcnn_benchmark.engine.inference import find_predictions, inference, measure_model
from maskrcnn_benchmark.engine.testing.dataset_figures import figures_of
from maskrcnn_benchmark.engine.testing.prediction_store import PredictionStore
from maskrcnn_benchmark.structures.bounding_box import BoxList
from maskrcnn_benchmark.structures.image_list import to_image_list
from maskrcnn_benchmark.text.tokenizer import build_tokenizer


class Oracle(torch.nn.Module):
    """Returns for every label of the map the box it was told for the caption's class at that label's tokens."""

    def __init__(self, tokenizer, boxes_of_word):
        super().__init__()
        self.tokenizer = tokenizer
        self.boxes_of_word = boxes_of_word
        self.captions: list[str] = []

    def forward(self, images, captions, positive_map):
        assert not self.training
        self.captions += captions
        results = []
        for (height, width), caption in zip(images.image_sizes, captions, strict=True):
            tokens = self.tokenizer(caption).tokens()
            boxes, labels = [], []
            for label, positions in positive_map.items():
                for box in self.boxes_of_word.get(" ".join(tokens[i] for i in positions), []):
                    boxes.append([coordinate * width / 100 for coordinate in box])
                    labels.append(label)
            result = BoxList(boxes, (width, height))
            result.add_field("labels", torch.tensor(labels, dtype=torch.int64))
            result.add_field("scores", torch.linspace(0.9, 0.5, len(boxes)))
            results.append(result)
        return results


@pytest.fixture
def cfg(tmp_path, bert_vocabulary):
    node = default_config()
    node.MODEL.LANGUAGE_BACKBONE.TOKENIZER_TYPE = bert_vocabulary
    node.INPUT.MIN_SIZE_TEST = 160
    node.DATALOADER.NUM_WORKERS = 0
    node.DATASETS.SEPARATION_TOKENS = ". "
    node.TEST.IMS_PER_BATCH = 2
    coco, grounding = str(write_coco_toy(tmp_path)), str(write_grounding_toy(tmp_path))
    node.DATASETS.REGISTER.toy_coco = CfgNode({"type": "coco", "img_dir": str(tmp_path), "ann_file": coco})
    node.DATASETS.REGISTER.toy_text = CfgNode({"type": "modulated", "img_dir": str(tmp_path), "ann_file": grounding})
    return node


def run(cfg, tmp_path, name, boxes_of_word):
    cfg.DATASETS.TEST = (name,)
    (loader,) = make_data_loader(cfg, is_train=False)
    model = Oracle(build_tokenizer(cfg.MODEL.LANGUAGE_BACKBONE.TOKENIZER_TYPE), boxes_of_word)
    result = inference(model, loader, name, device="cpu", output_folder=str(tmp_path / "out"), cfg=cfg, verbose=False)
    return result, model


@pytest.mark.parametrize(("chunk", "prompts"), [(-1, 1), (1, 3)])
def test_detection(cfg, tmp_path, chunk, prompts):
    cfg.TEST.EVAL_TASK = "detection"
    cfg.TEST.CHUNKED_EVALUATION = chunk
    boxes = {"cat": [[10, 10, 39.5, 39.5]], "dog": [[20, 20, 59.5, 59.5]]}
    (results, predictions), model = run(cfg, tmp_path, "toy_coco", boxes)
    assert len(set(model.captions)) == prompts
    assert len(predictions["bbox"]) == 6, "a cat and a dog on each of three pictures"
    assert 0.2 < results.results["bbox"]["AP50"] < 1.0
    assert (tmp_path / "out" / "bbox.csv").is_file() and (tmp_path / "out" / "report.html").is_file()


def test_report_only_on_request(cfg, tmp_path):
    cfg.TEST.EVAL_TASK, cfg.TEST.REPORT = "detection", False
    run(cfg, tmp_path, "toy_coco", {})
    assert (tmp_path / "out" / "bbox.csv").is_file() and not (tmp_path / "out" / "report.html").exists()


def test_grounding(cfg, tmp_path):
    cfg.TEST.EVAL_TASK = "grounding"
    boxes = {"the red cup": [[10, 10, 29, 29]], "the dog": [[0, 0, 5, 5], [50, 10, 99, 39]]}
    cfg.DATASETS.REGISTER.toy_text.ann_file = _only_first_sentence(cfg.DATASETS.REGISTER.toy_text.ann_file)
    figures, model = run(cfg, tmp_path, "toy_text", boxes)
    assert model.captions == ["the red cup left of the dog"]
    assert (figures["Recall@1_all"], figures["Recall@5_all"]) == (0.5, 1.0)
    assert json.loads((tmp_path / "out" / "metrics.json").read_text()) == figures


def _only_first_sentence(path: str) -> str:
    with open(path) as file:
        content = json.load(file)
    content["images"] = content["images"][:1]
    content["annotations"] = [a for a in content["annotations"] if a["image_id"] == 1]
    with open(path, "w") as file:
        json.dump(content, file)
    return path


def test_recall_of_boxes_whatever_their_class(cfg):
    cfg.TEST.EVAL_TASK, cfg.DATASETS.TEST = "detection", ("toy_coco",)
    (loader,) = make_data_loader(cfg, is_train=False)
    model = Oracle(build_tokenizer(cfg.MODEL.LANGUAGE_BACKBONE.TOKENIZER_TYPE), {"dog": [[10, 10, 39.5, 39.5]]})
    results, predictions = inference(model, loader, "toy_coco", box_only=True, device="cpu", cfg=cfg, verbose=False)
    assert len(predictions) == 3 and figures_of((results, predictions))["AR@100"] > 0


def test_subset_evaluates_what_was_seen(cfg, tmp_path):
    cfg.TEST.EVAL_TASK = "detection"
    cfg.TEST.SUBSET = 1
    cfg.TEST.IMS_PER_BATCH = 1
    (results, _), _ = run(cfg, tmp_path, "toy_coco", {"cat": [[10, 10, 39.5, 39.5]]})
    assert results.results["bbox"]["AP50"] == pytest.approx(1.0)


def test_predictions_stay_with_their_pictures_where_some_are_left_out(cfg, tmp_path):
    cfg.TEST.EVAL_TASK, cfg.DATASETS.TEST = "detection", ("toy_coco",)
    (loader,) = make_data_loader(cfg, is_train=False, for_evaluation=True)
    loader.batch_sampler.leave_out([0])
    model = Oracle(build_tokenizer(cfg.MODEL.LANGUAGE_BACKBONE.TOKENIZER_TYPE), {"dog": [[10, 10, 39.5, 39.5]]})
    inference(model, loader, "toy_coco", device="cpu", output_folder=str(tmp_path / "out"), cfg=cfg, verbose=False)
    found = torch.load(tmp_path / "out/predictions.pth", weights_only=False)
    assert [len(boxes) for boxes in found] == [0, 1, 1] and len(found[0].get_field("scores")) == 0


def test_figures_of_a_model_on_test_sets(cfg):
    cfg.TEST.EVAL_TASK, cfg.DATASETS.TEST = "detection", ("toy_coco", "toy_coco")
    model = Oracle(build_tokenizer(cfg.MODEL.LANGUAGE_BACKBONE.TOKENIZER_TYPE), {"cat": [[10, 10, 39.5, 39.5]]})
    first, second = measure_model(cfg, model, make_data_loader(cfg, is_train=False), "cpu")
    assert first == second and first["AP50"] > 0


def test_sentences_of_flickr_are_those_of_their_pictures(cfg, tmp_path, monkeypatch):
    """Whatever the test set is called, such as by a validation during training; the other part is there, too."""
    for subset in ("val", "test"):
        write_flickr(tmp_path, subset)
    (tmp_path / "flickr30k/flickr30k/val.txt").write_text("99\n")
    monkeypatch.setenv("DATASET", str(tmp_path))
    cfg.TEST.EVAL_TASK, cfg.DATASETS.TEST = "grounding", ("flickr30k_test",)
    model = Oracle(build_tokenizer(cfg.MODEL.LANGUAGE_BACKBONE.TOKENIZER_TYPE), {"the red cup": [[10, 10, 29, 29]]})
    (figures,) = measure_model(cfg, model, make_data_loader(cfg, is_train=False), "cpu")
    assert figures["Recall@1_other"] == 1.0 and figures["Recall@1_animals"] == 0.0


@pytest.mark.parametrize("kind", ["voc", "odtsv", "dt", "dt_json", "grounding"])
def test_detection_data_of_every_kind(cfg, tmp_path, kind):
    folder = tmp_path / kind
    folder.mkdir()
    entry = {**CLOSED, **CAPTIONED}[kind](folder)
    cfg.DATASETS.REGISTER["set"] = CfgNode({"type": kind, **entry})
    cfg.TEST.EVAL_TASK = "detection"
    result, model = run(cfg, tmp_path, "set", {"dog": [[10, 10, 49, 59]], "cat": [[10, 10, 39, 39]]})
    assert "dog" in model.captions[0]
    figures = figures_of(result)
    assert figures.get("map", figures.get("AP", 0)) > 0.2
    name = "result.txt" if kind == "voc" else "bbox.csv"
    assert (tmp_path / "out" / name).is_file() and (tmp_path / "out" / "predictions.pth").is_file()


def test_sentences_without_phrases_are_named(cfg, tmp_path):
    cfg.TEST.EVAL_TASK = "grounding"
    with pytest.raises(ValueError, match="every sentence of a test set needs phrases to evaluate"):
        run(cfg, tmp_path, "toy_text", {})


def test_unknown_task_is_named(cfg, tmp_path):
    cfg.TEST.EVAL_TASK = "captioning"
    with pytest.raises(ValueError, match="TEST.EVAL_TASK='captioning': known are detection, grounding"):
        run(cfg, tmp_path, "toy_coco", {})


class ManyBoxes(torch.nn.Module):
    """Finds 300 boxes on everything."""

    def forward(self, images, captions, positive_map):
        found = BoxList(torch.rand(300, 4) * 50, (100, 80))
        found.add_field("labels", torch.randint(1, 3, (300,)))
        found.add_field("scores", torch.rand(300))
        return [found]


class Synthetic:
    """A loader of `count` pictures that do not exist, and what it takes of memory on the way."""

    def __init__(self, count: int):
        self.count, self.pages = count, []
        self.dataset = self

    def categories(self):
        return {1: "cat", 2: "dog"}

    def __len__(self) -> int:
        return self.count

    def __iter__(self):
        for index in range(self.count):
            self.pages.append(int(Path("/proc/self/statm").read_text().split()[1]))
            yield to_image_list([torch.zeros(3, 8, 8)]), [None], (index,)


@pytest.mark.skipif(not Path("/proc/self/statm").exists(), reason="needs Linux")
def test_memory_stays_flat(cfg, tmp_path):
    """5,000 pictures with 300 boxes each would take 36 MB of numbers as tensors, and far more as objects."""
    cfg.TEST.EVAL_TASK = "detection"
    loader, store = Synthetic(5000), PredictionStore(tmp_path)
    find_predictions(ManyBoxes(), loader, store, cfg, "cpu", "synthetic", verbose=False)
    grown = (max(loader.pages[200:]) - loader.pages[200]) * os.sysconf("SC_PAGE_SIZE")
    assert len(store) == 5000 and grown < 20 * 2**20
    store.close()
