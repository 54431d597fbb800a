"""Evaluation with two processes equals that with one, on the large vocabulary of the scenes."""

import os
import signal
from contextlib import closing
from pathlib import Path

import pytest
import torch
from data_files import write_coco_toy
from evaluation_data import write_coco, write_flickr, write_lvis
from tiny_detector import make_text_folder, scramble, tiny_config
from torch.utils.data import DataLoader
from two_processes import run_two

from maskrcnn_benchmark.config import CfgNode, default_config
from maskrcnn_benchmark.data.build import make_data_loader
from maskrcnn_benchmark.data.collate_batch import BatchCollator
from maskrcnn_benchmark.data.samplers import DistributedSampler
from maskrcnn_benchmark.data.worker_errors import WorkerLost
from maskrcnn_benchmark.engine.finders import ForwardPromptFinder, Item
from maskrcnn_benchmark.engine.inference import inference, measure_model
from maskrcnn_benchmark.engine.loading import load_model
from maskrcnn_benchmark.engine.model_files import find_model
from maskrcnn_benchmark.engine.testing.dataset_figures import figures_of
from maskrcnn_benchmark.engine.testing.prediction_store import PATTERN, PredictionStore
from maskrcnn_benchmark.engine.text_files import use_local_text_files
from maskrcnn_benchmark.modeling.detector import build_detection_model
from maskrcnn_benchmark.scenes.dataset import write_dataset
from maskrcnn_benchmark.structures.bounding_box import BoxList
from maskrcnn_benchmark.text.queries import prompts_from_dataset
from maskrcnn_benchmark.utils import comm


def scenes_config(data: Path, *options) -> CfgNode:
    """glip_nano asked for every colour-kind pair."""
    files = find_model("glip_nano")
    cfg = default_config()
    cfg.merge_from_file(files.config)
    use_local_text_files(cfg, files.config.parent)
    cfg.MODEL.DEVICE = "cpu"
    register = {"type": "coco", "img_dir": str(data / "images"), "ann_file": str(data / "instances_pairs.json")}
    cfg.DATASETS.REGISTER["pairs"] = CfgNode(register)
    cfg.DATASETS.TEST, cfg.DATALOADER.NUM_WORKERS, cfg.TEST.IMS_PER_BATCH = ("pairs",), 0, 2
    cfg.merge_from_list(["DATALOADER.ASPECT_RATIO_GROUPING", False, *options])
    return cfg


def nano(cfg: CfgNode) -> torch.nn.Module:
    return load_model(cfg, find_model("glip_nano").weights(), torch.device("cpu"))


def figures(rank: int, cfg: CfgNode, output: str) -> tuple:
    (loader,) = make_data_loader(cfg, is_train=False, is_distributed=comm.get_world_size() > 1)
    result = inference(nano(cfg), loader, "pairs", device="cpu", output_folder=output, cfg=cfg, verbose=False)
    return None if result is None else (dict(result[0].results["bbox"]), result[1]["bbox"])


@pytest.mark.slow
def test_large_vocabulary(tmp_path):
    """At any batch size, with one process or two, what is found is what a caption with a picture at a time finds."""
    data = tmp_path / "scenes"
    write_dataset(data, "val", 5, 0, workers=1)
    cfg = scenes_config(data, "INPUT.MIN_SIZE_TEST", 192)
    (loader,) = make_data_loader(cfg, is_train=False)
    sizes = {tuple(image.image_sizes[0]) for image, *_ in loader}
    assert len(loader.dataset.categories()) >= 200 and len(sizes) == 1
    wanted = _one_by_one(cfg, loader.dataset)
    outcomes = [run_two(figures, tmp_path, cfg, str(tmp_path / "two"))[0]]
    for batch_size in (1, 3, 5):
        cfg.TEST.IMS_PER_BATCH = batch_size
        outcomes.append(figures(0, cfg, str(tmp_path / f"batch{batch_size}")))
    for values, rows in outcomes:
        assert values == outcomes[0][0], "identical AP"
        _compare(rows, wanted, loader.dataset)


@torch.no_grad()
def _one_by_one(cfg: CfgNode, dataset) -> dict[int, list]:
    """The slow way: every prompt with every picture."""
    model = nano(cfg)
    prompts = prompts_from_dataset(dataset, cfg, model.tokenizer)
    assert len(prompts) >= 4, "made by the number of tokens"
    cfg.TEST.IMS_PER_BATCH = 1
    (loader,) = make_data_loader(cfg, is_train=False)
    find = ForwardPromptFinder(model, prompts)
    found = {}
    for images, _, (index,), *_ in loader:
        (boxes,) = find(images, [Item(None, index)])
        found[dataset.id_to_img_map[index]] = boxes
    cfg.TEST.IMS_PER_BATCH = 2
    return found


def _compare(rows: list[dict], wanted: dict, dataset) -> None:
    """Every detection has its equal: class, box within 0.01 pixels, score within 1e-5."""
    for image_id, boxes in wanted.items():
        image = dataset.coco.imgs[image_id]
        boxes = boxes.resize((image["width"], image["height"])).convert("xywh")
        ids = [dataset.contiguous_category_id_to_json_id[label] for label in boxes.get_field("labels").tolist()]
        expected = _table(ids, boxes.bbox.tolist(), boxes.get_field("scores").tolist())
        own = [row for row in rows if row["image_id"] == image_id]
        found = _table(*([row[key] for row in own] for key in ("category_id", "bbox", "score")))
        assert found.shape == expected.shape and len(found) > 0
        differences = (found[:, None] - expected).abs().max(-1).values
        assert differences.min(0).values.max() < 1 and differences.min(1).values.max() < 1


def _table(ids: list[int], boxes: list[list[float]], scores: list[float]) -> torch.Tensor:
    """(N, 6) class, box and score, each in units of the difference that is too much."""
    rows = [[number, *box, score] for number, box, score in zip(ids, boxes, scores, strict=True)]
    return torch.tensor(rows, dtype=torch.float64) / torch.tensor([0.5, *[0.01] * 4, 1e-5], dtype=torch.float64)


def tiny_figures(rank: int, text: str, options: dict) -> list:
    cfg = tiny_config(Path(text), *options["cfg"])
    cfg.DATASETS.REGISTER["toy"] = CfgNode(options["register"])
    cfg.DATASETS.TEST, cfg.TEST.EVAL_TASK = ("toy",), "detection"
    torch.manual_seed(0)
    model = scramble(build_detection_model(cfg), scale=0.1)
    loaders = make_data_loader(cfg, is_train=False, is_distributed=comm.get_world_size() > 1)
    return measure_model(cfg, model, loaders, "cpu")


@pytest.mark.slow
def test_two_processes_measure_what_one_measures(tmp_path):
    annotations = write_coco_toy(tmp_path)
    text = make_text_folder(tmp_path / "text")
    options = {
        "cfg": ("INPUT.MIN_SIZE_TEST", 64, "MODEL.ATSS.INFERENCE_TH", 0.0, "DATALOADER.NUM_WORKERS", 0)
        + ("TEST.IMS_PER_BATCH", 1, "DATALOADER.ASPECT_RATIO_GROUPING", False),
        "register": {"type": "coco", "img_dir": str(tmp_path), "ann_file": str(annotations)},
    }
    alone = tiny_figures(0, str(text), options)
    runs = tmp_path / "runs"
    runs.mkdir()
    assert run_two(tiny_figures, runs, str(text), options) == [alone, alone]
    assert set(alone[0]) >= {"AP", "AP50"}


def gathered(rank: int, folder: str) -> list:
    """Each process has a disk of its own, with a picture that both have seen."""
    own = Path(folder, str(rank))
    own.mkdir()
    with closing(PredictionStore(own)) as store:
        for index in (0, 1, 2) if rank == 0 else (2, 3, 4, 5):
            boxes = BoxList([[index, 0, 10, 10]] * index, (20, 20))
            boxes.add_field("scores", torch.full((index,), 0.5 + rank / 10))
            boxes.add_field("labels", torch.arange(index))
            store.add(index, boxes)
        is_main = store.gather()
        return [is_main, [(index, boxes.bbox.tolist(), boxes.get_field("scores").tolist()) for index, boxes in store]]


@pytest.mark.slow
def test_processes_without_a_common_disk_send_their_records(tmp_path):
    (is_main, records), (is_other_main, _) = run_two(gathered, tmp_path, str(tmp_path))
    assert is_main and not is_other_main and [record[0] for record in records] == list(range(6))
    for index, boxes, scores in records:
        assert boxes == [[index, 0, 10, 10]] * index
        assert scores == pytest.approx([0.5 if index < 3 else 0.6] * index)


@pytest.mark.slow
def test_two_processes_go_on_where_one_stopped(tmp_path):
    """And one goes on where two stopped."""
    annotations = write_coco_toy(tmp_path)
    options = {
        "cfg": ("INPUT.MIN_SIZE_TEST", 64, "MODEL.ATSS.INFERENCE_TH", 0.0, "DATALOADER.NUM_WORKERS", 0)
        + ("TEST.IMS_PER_BATCH", 1, "DATALOADER.ASPECT_RATIO_GROUPING", False),
        "register": {"type": "coco", "img_dir": str(tmp_path), "ann_file": str(annotations)},
        "output": str(tmp_path / "out"),
    }
    text = str(make_text_folder(tmp_path / "text"))
    whole = resumed(0, text, options)
    (path,) = (tmp_path / "out/predictions").glob(PATTERN)
    path.write_bytes(path.read_bytes()[:-30])
    runs = tmp_path / "runs"
    runs.mkdir()
    assert_alike(run_two(resumed, runs, text, options)[0], whole)
    for path in (tmp_path / "out/predictions").glob(PATTERN):
        path.write_bytes(path.read_bytes()[:-30])
    assert_alike(resumed(0, text, options), whole)


def assert_alike(found: list[dict], wanted: list[dict]) -> None:
    """Processes have different numbers of threads, which shows in the last digits."""
    assert [(row["image_id"], row["category_id"]) for row in found] == [
        (row["image_id"], row["category_id"]) for row in wanted
    ]
    assert [row["score"] for row in found] == pytest.approx([row["score"] for row in wanted], abs=1e-6)


def resumed(rank: int, text: str, options: dict):
    cfg = tiny_config(Path(text), *options["cfg"])
    cfg.DATASETS.REGISTER["toy"] = CfgNode(options["register"])
    cfg.DATASETS.TEST, cfg.TEST.EVAL_TASK, cfg.TEST.REPORT = ("toy",), "detection", False
    torch.manual_seed(0)
    model = scramble(build_detection_model(cfg), scale=0.1)
    (loader,) = make_data_loader(cfg, is_train=False, is_distributed=comm.get_world_size() > 1)
    arguments = {"device": "cpu", "output_folder": options["output"], "cfg": cfg, "verbose": False, "resume": True}
    result = inference(model, loader, "toy", **arguments)
    return None if result is None else result[1]["bbox"]


class ByPictureSize(torch.nn.Module):
    """Finds three boxes for every label, the same ones on pictures of one size."""

    def forward(self, images, captions, positive_map):
        results = []
        for height, width in images.image_sizes:
            generator = torch.Generator().manual_seed(7 * height + width)
            count = 3 * len(positive_map)
            corners = torch.rand(count, 4, generator=generator).sort(1).values * min(height, width)
            boxes = BoxList(corners, (width, height))
            boxes.add_field("labels", torch.tensor([*positive_map] * 3))
            boxes.add_field("scores", torch.rand(count, generator=generator))
            results.append(boxes)
        return results


def figures_of_padded(rank: int, text: str) -> list:
    """Figures on COCO, LVIS and Flickr; with two processes by a sampler that gives both some of the items."""
    measured = []
    for task, file in (("detection", None), ("detection", "lvis/minival"), ("grounding", "flickr/test")):
        cfg = tiny_config(
            Path(text), "TEST.REPORT", False, "DATALOADER.NUM_WORKERS", 0, "DATASETS.SEPARATION_TOKENS", ". "
        )
        cfg.DATASETS.TEST = ("coco_2017_val",)
        if file:
            cfg.merge_from_file(f"configs/{file}.yaml")
        cfg.merge_from_list(["TEST.EVAL_TASK", task, "TEST.IMS_PER_BATCH", 1])
        (loader,) = make_data_loader(cfg, is_train=False)
        if comm.get_world_size() > 1:
            sampler = DistributedSampler(loader.dataset)
            assert sampler.total_size >= len(loader.dataset)
            loader = DataLoader(loader.dataset, sampler=sampler, collate_fn=BatchCollator(32))
        result = inference(ByPictureSize(), loader, cfg.DATASETS.TEST[0], device="cpu", cfg=cfg, verbose=False)
        measured.append(figures_of(result))
    return measured


@pytest.mark.slow
def test_items_that_two_processes_have_count_once(tmp_path, monkeypatch):
    """As the samplers of other projects pad: three pictures of COCO, five of LVIS."""
    for write in (write_coco, write_lvis, write_flickr):
        write(tmp_path)
    monkeypatch.setenv("DATASET", str(tmp_path))
    text = str(make_text_folder(tmp_path / "text"))
    runs = tmp_path / "runs"
    runs.mkdir()
    found, nothing = run_two(figures_of_padded, runs, text)
    assert found == figures_of_padded(0, text) and not any(nothing)
    assert found[0]["AP"] >= 0 and found[1]["AP"] >= 0 and "Recall@1_animals" in found[2]


class KillsItsWorker(torch.utils.data.Dataset):
    """Ends the process that reads it, as a system without memory does."""

    def __init__(self, dataset):
        self.dataset = dataset

    def __len__(self) -> int:
        return len(self.dataset)

    def __getitem__(self, index):
        os.kill(os.getpid(), signal.SIGKILL)

    def categories(self):
        return self.dataset.categories()


def test_killed_worker_is_told_in_one_line(tmp_path):
    annotations = write_coco_toy(tmp_path)
    cfg = tiny_config(make_text_folder(tmp_path / "text"), "DATALOADER.NUM_WORKERS", 1, "TEST.EVAL_TASK", "detection")
    cfg.DATASETS.REGISTER["toy"] = CfgNode({"type": "coco", "img_dir": str(tmp_path), "ann_file": str(annotations)})
    cfg.DATASETS.TEST = ("toy",)
    (loader,) = make_data_loader(cfg, is_train=False)
    broken = torch.utils.data.DataLoader(KillsItsWorker(loader.dataset), num_workers=1)
    output = tmp_path / "out"
    with pytest.raises(WorkerLost, match="the data worker with process id|a data worker ended"):
        inference(build_detection_model(cfg), broken, "toy", device="cpu", output_folder=str(output), cfg=cfg)
    assert [path.name for path in output.iterdir()] == ["predictions"]
