"""Every type of the catalogue, from files to a batch; those with captions to a step of training."""

import json
import multiprocessing
import pickle

import pytest
import torch
from data_files import write_coco_toy, write_grounding_toy
from PIL import Image
from tiny_detector import tiny_config
from tsv_files import write_tsv_dataset

from maskrcnn_benchmark.config import CfgNode
from maskrcnn_benchmark.config.paths_catalog import TYPES
from maskrcnn_benchmark.data.build import make_data_loader
from maskrcnn_benchmark.data.reproducible import SampleKey
from maskrcnn_benchmark.data.transport import unpack_batch
from maskrcnn_benchmark.data.tsv_conversion import coco_to_tsv
from maskrcnn_benchmark.modeling.detector import build_detection_model

VOC = """<annotation><size><width>100</width><height>80</height></size><object><name>dog</name>
<bndbox><xmin>11</xmin><ymin>11</ymin><xmax>50</xmax><ymax>60</ymax></bndbox></object></annotation>"""


def boxes_in_json(folder):
    return {"img_dir": str(folder), "ann_file": str(write_coco_toy(folder))}


def boxes_in_tsv(folder):
    return {"yaml_file": str(coco_to_tsv(write_coco_toy(folder), folder, folder / "tsv"))}


def captions_in_json(folder):
    return {"img_dir": str(folder), "ann_file": str(write_grounding_toy(folder))}


def captions_of_two_sources(folder):
    return {"coco_img_dir": str(folder), "vg_img_dir": str(folder), "ann_file": str(write_grounding_toy(folder))}


def captions_in_tsv(folder):
    spans = {"caption": "a red cup", "tokens_positive": [[[2, 5]], [[2, 9]]]}
    label = spans | {"img_h": 80, "img_w": 100, "bboxes": [[5, 5, 44, 44], [50, 20, 79, 59]], "scores": [1, 1]}
    return {"yaml_file": str(write_tsv_dataset(folder, dict.fromkeys("ab", label)))}


def voc_folder(folder):
    for part in ("Annotations", "ImageSets/Main", "JPEGImages"):
        (folder / part).mkdir(parents=True)
    (folder / "ImageSets" / "Main" / "trainval.txt").write_text("1\n2\n")
    for name in "12":
        (folder / "Annotations" / f"{name}.xml").write_text(VOC)
        Image.new("RGB", (100, 80)).save(folder / "JPEGImages" / f"{name}.jpg")
    return {"data_dir": str(folder), "split": "trainval"}


def lvis_file(folder):
    path = write_coco_toy(folder)
    content = json.loads(path.read_text())
    for image in content["images"]:
        image["coco_url"] = f"http://host/folder/{image.pop('file_name')}"
    path.write_text(json.dumps(content))
    (folder / "folder").symlink_to(folder)
    return {"img_dir": str(folder), "ann_file": str(path)}


CLOSED = {"coco": boxes_in_json, "voc": voc_folder, "odtsv": boxes_in_tsv, "background": boxes_in_json}
CAPTIONED = {
    "grounding": boxes_in_json, "dt": boxes_in_tsv, "dt_json": boxes_in_json, "modulated": captions_in_json,
    "flickr": captions_in_json, "refexp": captions_in_json, "gqa": captions_in_json, "phrasecut": captions_in_json,
    "mixed": captions_of_two_sources, "caption": captions_in_tsv, "pseudo_data": captions_in_tsv,
}  # fmt: skip
EVALUATED = {"lvis": lvis_file}


@pytest.fixture(scope="module")
def model(text_folder):
    torch.manual_seed(0)
    return build_detection_model(tiny_config(text_folder)).train()


@pytest.fixture
def cfg(text_folder):
    return tiny_config(
        text_folder,
        *("INPUT.MIN_SIZE_TRAIN", 64, "INPUT.MIN_SIZE_TEST", 64, "AUGMENT.MULT_MIN_SIZE_TRAIN", (64,)),
        *("SOLVER.IMS_PER_BATCH", 2, "SOLVER.MAX_EPOCH", 0, "SOLVER.MAX_ITER", 1, "TEST.IMS_PER_BATCH", 2),
        *("DATASETS.CONTROL_PROB", (0.0, 0.0, 1.0, 0.0), "DATASETS.RANDOM_SAMPLE_NEG", 5, "DATALOADER.NUM_WORKERS", 0),
        *("DATASETS.TRAIN", ("toy",), "DATASETS.TEST", ("toy",)),
    )


def test_all_types_are_here():
    assert {*CLOSED, *CAPTIONED, *EVALUATED} == set(TYPES)


@pytest.mark.parametrize("kind", CAPTIONED)
def test_a_step_of_training(kind, cfg, model, tmp_path):
    cfg.DATASETS.REGISTER.toy = CfgNode({"type": kind, **CAPTIONED[kind](tmp_path)})
    ((images, targets, indices, positive_map, positive_map_eval, greenlight_map),) = list(make_data_loader(cfg))
    assert len(positive_map) == sum(map(len, targets)) > 0 and positive_map_eval is None and len(indices) == 2
    model.zero_grad()
    captions = [target.get_field("caption") for target in targets]
    total = sum(model(images, targets, captions, positive_map, greenlight_map=greenlight_map).values())
    total.backward()
    assert torch.isfinite(total)
    assert max(float(p.grad.abs().max()) for p in model.parameters() if p.grad is not None) > 0


@pytest.mark.parametrize("kind", CLOSED)
def test_a_batch_with_category_numbers(kind, cfg, tmp_path):
    cfg.DATASETS.REGISTER.toy = CfgNode({"type": kind, **CLOSED[kind](tmp_path)})
    ((images, targets, *maps),) = list(make_data_loader(cfg))
    assert images.tensors.shape[:2] == (2, 3) and all(target.get_field("labels").dim() == 1 for target in targets)
    assert sum(map(len, targets)) > 0 or kind == "background"
    assert maps[1:] == [None, None, None]


def test_lvis_is_evaluated_by_its_own_category_numbers(cfg, tmp_path):
    cfg.DATASETS.REGISTER.toy = CfgNode({"type": "lvis", **lvis_file(tmp_path)})
    cfg.DATALOADER.ASPECT_RATIO_GROUPING = False
    (loader,) = make_data_loader(cfg, is_train=False)
    labels = [target["labels"].tolist() for _, targets, *_ in loader for target in targets]
    assert labels == [[7], [3], []]


@pytest.mark.parametrize("kind", CAPTIONED | CLOSED)
def test_a_loader_can_be_sent_to_a_spawned_worker(kind, cfg, tmp_path):
    cfg.DATASETS.REGISTER.toy = CfgNode({"type": kind, **(CAPTIONED | CLOSED)[kind](tmp_path)})
    loader = make_data_loader(cfg).loader
    dataset, collate, start = pickle.loads(pickle.dumps((loader.dataset, loader.collate_fn, loader.worker_init_fn)))
    assert start is loader.worker_init_fn
    (images, targets, *_), (sent_images, sent_targets, *_) = (
        unpack_batch(call([data[SampleKey(index, seed=3)] for index in (0, 1)]))
        for data, call in ((loader.dataset, loader.collate_fn), (dataset, collate))
    )
    assert torch.equal(images.tensors, sent_images.tensors)
    for target, sent in zip(targets, sent_targets, strict=True):
        assert torch.equal(target.bbox, sent.bbox) and target.fields() == sent.fields()
        assert not target.has_field("caption") or target.get_field("caption") == sent.get_field("caption")


def test_batches_of_spawned_workers(cfg, tmp_path, monkeypatch):
    """As on systems that do not fork, and in processes that were spawned themselves."""
    monkeypatch.setattr(multiprocessing.context._default_context, "_actual_context", None)  # what is set is put back
    cfg.DATASETS.REGISTER.toy = CfgNode({"type": "grounding", **boxes_in_json(tmp_path)})
    (here,) = list(make_data_loader(cfg))
    cfg.DATALOADER.NUM_WORKERS = 1
    multiprocessing.set_start_method("spawn")
    (there,) = list(make_data_loader(cfg))
    assert torch.equal(here[0].tensors, there[0].tensors) and torch.equal(here[3], there[3])
