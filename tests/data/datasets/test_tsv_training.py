"""TSV files at the place of a built-in dataset, to a step of training; for the other types see test_every_type."""

import pytest
import torch
from data_files import write_coco_toy
from tiny_detector import tiny_config

from maskrcnn_benchmark.config.paths_catalog import DATASETS
from maskrcnn_benchmark.data.build import make_data_loader
from maskrcnn_benchmark.data.tsv_conversion import coco_to_tsv
from maskrcnn_benchmark.modeling.detector import build_detection_model

BUILT_IN = "object365_dt_train"


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


def test_from_files_to_a_step_of_training(cfg, text_folder, tmp_path):
    write_objects(cfg, tmp_path)
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
