"""Pseudo-labels by two processes are those of one: every pair once, none lost; and a student trains on them."""

import json
from pathlib import Path

import pytest
import torch
from fake_detector import fake_detector
from pair_files import contents, write_json_lines, write_webdataset
from two_processes import run_two

from maskrcnn_benchmark.config import CfgNode, default_config
from maskrcnn_benchmark.data.build import make_data_loader
from maskrcnn_benchmark.data.image_text_pairs import find_shards
from maskrcnn_benchmark.engine.detector_api import Detector
from maskrcnn_benchmark.engine.loading import load_model
from maskrcnn_benchmark.engine.model_files import find_model
from maskrcnn_benchmark.engine.pseudo_labels.pseudo_label import LabelOptions
from maskrcnn_benchmark.engine.pseudo_labels.pseudo_label_run import Outcome, label_pairs
from maskrcnn_benchmark.engine.text_files import use_local_text_files
from maskrcnn_benchmark.scenes.generator import generate_scene
from maskrcnn_benchmark.utils import comm


def labels_of_both_kinds(rank: int, lines: str, tars: str, out: str) -> tuple[Outcome, Outcome, str]:
    """Outcomes for JSON lines and for tar files, and the text of a mistake."""
    options, outcomes = LabelOptions(batch_size=2), []
    for kind, pairs in (("lines", lines), ("tars", tars)):
        shards = find_shards([pairs], None, 2)
        outcomes.append(label_pairs(shards, Path(out, kind), fake_detector, options, {"threshold": 0.5}))
    try:
        label_pairs(shards, Path(out, "tars"), fake_detector, options, {"threshold": 0.7})
    except ValueError as error:
        return *outcomes, str(error).partition("otherwise")[2]
    return *outcomes, ""


def embedded_labels(rank: int, pairs: str, out: str) -> Outcome:
    def teacher() -> Detector:
        return Detector.from_pretrained("glip_nano", device="cpu")

    return label_pairs(find_shards([pairs], None, 2), Path(out), teacher, LabelOptions(batch_size=2), {})


def test_two_processes_do_what_one_does(tmp_path):
    captions = [f"a dog and a cat number {number}" for number in range(11)]
    lines, tars = str(write_json_lines(tmp_path, captions)), tmp_path / "tars"
    (tmp_path / "3.png").unlink()
    tars.mkdir()
    for number in range(4):
        write_webdataset(tars / f"{number}.tar", captions[number::4])
    alone = labels_of_both_kinds(0, lines, str(tars), str(tmp_path / "one"))
    assert run_two(labels_of_both_kinds, tmp_path, lines, str(tars), str(tmp_path / "two")) == [alone, alone]
    assert contents(tmp_path / "one") == contents(tmp_path / "two")
    assert [(outcome.total.pairs, outcome.total.rows) for outcome in alone[:2]] == [(11, 10), (11, 11)]
    assert "threshold 0.5 there, 0.7 now" in alone[2]


def write_scenes(folder: Path, count: int) -> str:
    """A list of captions for drawn scenes."""
    lines = []
    for index in range(count):
        picture, scene = generate_scene(3, "train", index)
        picture.save(folder / f"{index}.jpg")
        lines += [json.dumps({"image": f"{index}.jpg", "caption": caption.text}) for caption in scene.captions[:1]]
    path = folder / "pairs.jsonl"
    path.write_text("\n".join(lines))
    return str(path)


def training_config(labels: Path) -> CfgNode:
    """The embedded model, to be trained on pseudo-labels alone."""
    files = find_model("glip_nano")
    cfg = default_config()
    cfg.merge_from_file(files.config)
    use_local_text_files(cfg, files.config.parent)
    cfg.DATASETS.REGISTER["labels"] = CfgNode({"type": "caption", "yaml_file": str(labels / "data.yaml")})
    cfg.DATASETS.TRAIN = ("labels",)
    cfg.merge_from_list(["MODEL.DEVICE", "cpu", "SOLVER.IMS_PER_BATCH", 2, "SOLVER.MAX_EPOCH", 0, "SOLVER.MAX_ITER", 1])
    cfg.merge_from_list(["DATALOADER.NUM_WORKERS", 0, "INPUT.MIN_SIZE_TRAIN", 256])
    return cfg


def train_a_step(labels: Path) -> None:
    """The embedded model takes a step on the labels; the loss is finite and has gradients."""
    cfg = training_config(labels)
    model = load_model(cfg, find_model("glip_nano").weights(), torch.device("cpu")).train()
    ((images, targets, _, positive_map, _, greenlight_map),) = list(make_data_loader(cfg))
    assert len(positive_map) == sum(map(len, targets)) > 0 and (positive_map.sum(1) > 0.9).all()
    captions = [target.get_field("caption") for target in targets]
    total = sum(model(images, targets, captions, positive_map, greenlight_map=greenlight_map).values())
    total.backward()
    assert torch.isfinite(total)
    assert max(float(p.grad.abs().max()) for p in model.parameters() if p.grad is not None) > 0


def test_from_the_embedded_model_to_a_step_of_training(tmp_path):
    assert comm.get_world_size() == 1
    outcome = embedded_labels(0, write_scenes(tmp_path, 3), str(tmp_path / "out"))
    assert outcome.total.rows == 3 and outcome.total.boxes >= 3
    train_a_step(tmp_path / "out")


@pytest.mark.slow
def test_the_embedded_model_in_two_processes(tmp_path):
    pairs = write_scenes(tmp_path, 7)
    alone = embedded_labels(0, pairs, str(tmp_path / "one"))
    assert run_two(embedded_labels, tmp_path, pairs, str(tmp_path / "two")) == [alone, alone]
    assert contents(tmp_path / "one") == contents(tmp_path / "two") and alone.total.rows == 7
    train_a_step(tmp_path / "two")
