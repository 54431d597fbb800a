"""A run that validates: figures and pictures in TensorBoard, the best weights, the report at its end."""

import json
import logging
from pathlib import Path

import numpy as np
import pytest
import torch
from data_files import write_coco_toy, write_grounding_toy
from PIL import Image
from tiny_detector import make_text_folder, tiny_config

from maskrcnn_benchmark.config import CfgNode
from maskrcnn_benchmark.data.transforms import build_transforms
from maskrcnn_benchmark.engine.training.training_run import RunOptions, run_training, train
from maskrcnn_benchmark.engine.training.validation_pictures import draw_predictions, picture_of
from maskrcnn_benchmark.structures.bounding_box import BoxList
from maskrcnn_benchmark.utils import metric_logger
from maskrcnn_benchmark.utils.random_state import seed_everything
from maskrcnn_benchmark.utils.weight_files import read_checkpoint

RUN = """
    INPUT.MIN_SIZE_TRAIN 64 INPUT.MIN_SIZE_TEST 64 AUGMENT.MULT_MIN_SIZE_TRAIN (64,) DATALOADER.NUM_WORKERS 0
    SOLVER.IMS_PER_BATCH 2 SOLVER.MAX_ITER 4 SOLVER.CHECKPOINT_PERIOD 2 SOLVER.MAX_NEG_PER_BATCH 0.9
    SOLVER.CHECKPOINT_PER_EPOCH -1.0 SOLVER.MAX_EPOCH 0 SOLVER.USE_AMP False SOLVER.MODEL_EMA 0.9
    SOLVER.USE_EMA_FOR_MONITOR True TEST.DURING_TRAINING True TEST.IMS_PER_BATCH 2
"""


class RecordingWriter:
    """Keeps what would go into an event file."""

    def __init__(self):
        self.scalars: dict[str, list[tuple[int, float]]] = {}
        self.images: dict[str, np.ndarray] = {}

    def close(self) -> None:
        self.is_closed = True

    def add_scalar(self, name: str, value: float, step: int) -> None:
        self.scalars.setdefault(name, []).append((step, value))

    def add_image(self, name: str, image: np.ndarray, step: int, dataformats: str) -> None:
        assert dataformats == "HWC" and image.dtype == np.uint8
        self.images[f"{name}@{step}"] = image


@pytest.fixture
def writer(monkeypatch) -> RecordingWriter:
    recording = RecordingWriter()
    monkeypatch.setattr(metric_logger, "make_event_writer", lambda folder: recording)
    return recording


@pytest.fixture
def cfg(tmp_path):
    node = tiny_config(make_text_folder(tmp_path / "text"), "MODEL.WEIGHT", "", *RUN.split())
    files = {"coco": write_coco_toy(tmp_path), "grounding": write_grounding_toy(tmp_path)}
    keep_first_sentence(files["grounding"])
    kinds = {"detection": ("coco", "coco"), "phrases": ("modulated", "grounding"), "names": ("grounding", "coco")}
    for name, (kind, file) in kinds.items():
        entry = {"type": kind, "img_dir": str(tmp_path), "ann_file": str(files[file])}
        node.DATASETS.REGISTER[name] = CfgNode(entry)
    node.DATASETS.TRAIN = ("names",)
    node.OUTPUT_DIR = str(tmp_path / "out")
    (tmp_path / "out").mkdir()
    return node


def keep_first_sentence(path: Path) -> None:
    content = json.loads(path.read_text())
    content["images"] = content["images"][:1]
    content["annotations"] = [entry for entry in content["annotations"] if entry["image_id"] == 1]
    path.write_text(json.dumps(content))


@pytest.mark.parametrize(
    ("task", "test_set", "figure", "pictures"),
    [("detection", "detection", "AP", 3), ("grounding", "phrases", "Recall@1_all", 1)],
)
def test_run_with_validation(cfg, tmp_path, writer, caplog, task, test_set, figure, pictures):
    caplog.set_level(logging.INFO, "maskrcnn_benchmark.trainer")
    cfg.TEST.EVAL_TASK, cfg.DATASETS.TEST = task, (test_set,)
    train(cfg, torch.device("cpu"), RunOptions(use_tensorboard=True))
    assert writer.is_closed
    assert [step for step, _ in writer.scalars[f"validation/{figure}"]] == [2, 4]
    assert [step for step, _ in writer.scalars["loss"]] == [1, 2, 3, 4]
    for name in ("loss_reg", "time", "data", "lr", "lr/backbone", "lr/language_backbone", "lr/rpn", "weight_decay"):
        assert name in writer.scalars, name
    ((step, images_per_s),) = writer.scalars["images_per_s"]
    assert step == 4 and images_per_s > 0 and writer.scalars["max_memory_mib"] == [(4, 0.0)]
    assert sorted(writer.images) == [f"predictions/{i}@{step}" for i in range(pictures) for step in (2, 4)]
    assert writer.images["predictions/0@4"].shape == (64, 80, 3)
    report = json.loads((tmp_path / "out" / "training_report.json").read_text())
    assert report["accuracy"][figure] == writer.scalars[f"validation/{figure}"][-1][1] == report["best"]
    assert report["images_per_s"] > 0 and report["processes"] == 1
    assert f"Accuracy: {figure} " in caplog.text and "images/s on 1 process(es)" in caplog.text
    assert read_checkpoint(tmp_path / "out" / "model_best.pth")["iteration"] == 4, "ties are no worse"


def test_measuring_the_start_changes_nothing(cfg, tmp_path):
    cfg.TEST.EVAL_TASK, cfg.DATASETS.TEST = "detection", ("detection",)
    runs = []
    for name, measures_start in (("plain", False), ("measured", True)):
        cfg.OUTPUT_DIR = str(tmp_path / name)
        (tmp_path / name).mkdir()
        seed_everything(1)
        runs.append(run_training(cfg, torch.device("cpu"), RunOptions(measures_start=measures_start)))
    plain, measured = runs
    assert plain.is_finished and measured.is_finished and plain.start_figures is None
    assert {"AP", "AP50"} <= measured.start_figures.keys()
    one, other = (read_checkpoint(tmp_path / name / "model_final.pth") for name in ("plain", "measured"))
    assert one["validation"] == other["validation"] and [step for step, _ in one["validation"]["history"]] == [2, 4]
    assert all(torch.equal(value, other["model"][name]) for name, value in one["model"].items())
    report = json.loads((tmp_path / "plain" / "training_report.json").read_text())
    (tmp_path / "plain" / "training_report.json").unlink()
    cfg.OUTPUT_DIR = str(tmp_path / "plain")
    assert run_training(cfg, torch.device("cpu"), RunOptions()).is_finished
    again = json.loads((tmp_path / "plain" / "training_report.json").read_text())
    assert again == report | {"images_per_s": None}, "a run that was killed before its report gets one"


def test_weights_of_a_checkpoint_without_its_iteration(cfg, tmp_path):
    cfg.TEST.DURING_TRAINING = False
    train(cfg, torch.device("cpu"), RunOptions())
    before = read_checkpoint(tmp_path / "out" / "model_final.pth")["model"]
    cfg.SOLVER.MAX_ITER = 1
    train(cfg, torch.device("cpu"), RunOptions(resumes_weights_only=True))
    after = read_checkpoint(tmp_path / "out" / "model_final.pth")
    assert after["iteration"] == 1
    changes = [
        (after["model"][name] - value).abs().max() for name, value in before.items() if value.is_floating_point()
    ]
    assert 0 < max(changes) < 0.01, "one step from where the first run ended"


def test_run_without_validation_says_so(cfg, tmp_path, caplog):
    caplog.set_level(logging.INFO, "maskrcnn_benchmark.trainer")
    cfg.TEST.DURING_TRAINING, cfg.SOLVER.AUTO_TERMINATE_PATIENCE = False, 3
    train(cfg, torch.device("cpu"), RunOptions())
    assert "SOLVER.AUTO_TERMINATE_PATIENCE has no effect" in caplog.text
    assert "Accuracy: not measured (TEST.DURING_TRAINING False)" in caplog.text
    assert json.loads((tmp_path / "out" / "training_report.json").read_text())["accuracy"] is None
    assert not (tmp_path / "out" / "model_best.pth").exists()


@pytest.mark.parametrize(
    ("bgr", "mean", "std"), [(True, [103.0, 116.0, 123.0], [57.0, 57.0, 58.0]), (False, [0.4] * 3, [0.2] * 3)]
)
def test_pictures_are_those_of_the_files(cfg, bgr, mean, std):
    cfg.INPUT.TO_BGR255, cfg.INPUT.PIXEL_MEAN, cfg.INPUT.PIXEL_STD = bgr, mean, std
    noise = np.random.default_rng(0).integers(0, 256, (64, 64, 3), dtype=np.uint8)
    image, _ = build_transforms(cfg, is_train=False)(Image.fromarray(noise), None)
    assert np.array_equal(picture_of(image, cfg), noise)


class Finder(torch.nn.Module):
    """Finds for every label of the map one box, with scores above and below the threshold in turn."""

    def __init__(self, tokenizer):
        super().__init__()
        self.tokenizer = tokenizer

    def forward(self, images, captions, positive_map):
        results = []
        for tokens in positive_map:
            found = BoxList([[5.0, 5.0, 40.0, 30.0]] * len(tokens), (80, 64))
            found.add_field("labels", torch.tensor(list(tokens)))
            found.add_field("scores", torch.tensor([0.9, 0.1, 0.5][: len(tokens)]))
            results.append(found)
        return results


@pytest.mark.parametrize("chunk", [-1, 1])
def test_boxes_get_the_words_they_were_found_by(cfg, monkeypatch, chunk):
    from maskrcnn_benchmark.data.build import make_data_loader
    from maskrcnn_benchmark.engine.training import validation_pictures
    from maskrcnn_benchmark.text.tokenizer import build_tokenizer

    cfg.TEST.EVAL_TASK, cfg.DATASETS.TEST, cfg.TEST.CHUNKED_EVALUATION = "detection", ("detection",), chunk
    calls = []
    monkeypatch.setattr(
        validation_pictures,
        "draw_boxes",
        lambda picture, boxes, labels, scores: calls.append((labels, scores)) or picture,
    )
    (loader,) = make_data_loader(cfg, is_train=False)
    model = Finder(build_tokenizer(cfg.MODEL.LANGUAGE_BACKBONE.TOKENIZER_TYPE))
    assert len(draw_predictions(cfg, model, loader, "cpu", count=2)) == len(calls) == 2
    labels, scores = calls[0]
    assert len(labels) == len(scores) and scores[0] == pytest.approx(0.9)
    assert len(labels) == (2 if chunk == -1 else 3), "0.1 is below the threshold"
