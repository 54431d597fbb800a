"""TSV datasets from their files to a step of training."""

import pytest
import torch
from data_files import write_coco_toy
from tiny_detector import make_text_folder, tiny_config
from tsv_files import write_tsv_dataset

from maskrcnn_benchmark.config import CfgNode
from maskrcnn_benchmark.config.paths_catalog import DATASETS
from maskrcnn_benchmark.data.build import make_data_loader
from maskrcnn_benchmark.data.tsv_conversion import coco_to_tsv
from maskrcnn_benchmark.modeling.detector import build_detection_model

BUILT_IN = "object365_dt_train"


@pytest.fixture(scope="module")
def text_folder(tmp_path_factory):
    return make_text_folder(tmp_path_factory.mktemp("text"))


@pytest.fixture
def cfg(text_folder, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("DATASET", str(tmp_path / "disk"))
    return tiny_config(
        text_folder,
        *("INPUT.MIN_SIZE_TRAIN", 64, "AUGMENT.MULT_MIN_SIZE_TRAIN", (64,)),
        *("SOLVER.IMS_PER_BATCH", 2, "SOLVER.MAX_EPOCH", 0, "SOLVER.MAX_ITER", 1, "DATALOADER.NUM_WORKERS", 0),
        *("DATASETS.CONTROL_PROB", (0.0, 0.0, 1.0, 0.0), "DATASETS.RANDOM_SAMPLE_NEG", 5),
    )


def write_objects(cfg, root) -> None:
    """Detection data at the place of a built-in dataset."""
    place = root / "disk" / DATASETS[BUILT_IN]["yaml_file"]
    descriptor = coco_to_tsv(write_coco_toy(root), root, place.parent)
    descriptor.rename(place)
    cfg.DATASETS.TRAIN = (BUILT_IN,)


def write_captions(cfg, root, kind: str) -> None:
    size = {"img_h": 80, "img_w": 100, "bboxes": [[5, 5, 44, 44], [50, 20, 79, 59]], "scores": [1, 1]}
    labels = {key: size | {"caption": "a red cup", "tokens_positive": [[[2, 5]], [[2, 9]]]} for key in "ab"}
    cfg.DATASETS.REGISTER.toy = CfgNode({"type": kind, "yaml_file": str(write_tsv_dataset(root, labels))})
    cfg.DATASETS.TRAIN = ("toy",)


@pytest.mark.parametrize("kind", ["dt", "caption", "pseudo_data"])
def test_from_files_to_a_step_of_training(cfg, text_folder, tmp_path, kind):
    if kind == "dt":
        write_objects(cfg, tmp_path)
    else:
        write_captions(cfg, tmp_path, kind)
    torch.manual_seed(0)
    model = build_detection_model(tiny_config(text_folder)).train()
    ((images, targets, _, positive_map, _, greenlight_map),) = list(make_data_loader(cfg))
    assert len(positive_map) == sum(map(len, targets)) > 0
    captions = [target.get_field("caption") for target in targets]
    losses = model(images, targets, captions, positive_map, greenlight_map=greenlight_map)
    total = sum(losses.values())
    total.backward()
    assert torch.isfinite(total)
    assert max(float(p.grad.abs().max()) for p in model.parameters() if p.grad is not None) > 0
