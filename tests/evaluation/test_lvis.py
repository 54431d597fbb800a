"""LVIS figures against those of the reference evaluator, and a set small enough to know them."""

import copy
import csv
import gzip
import importlib.util
import json
import logging
from pathlib import Path

import lvis_detections
import numpy as np
import pytest
import torch
from golden_tools import GOLDEN_DIR

from maskrcnn_benchmark.data.datasets.evaluation.lvis.lvis import LVIS
from maskrcnn_benchmark.data.datasets.evaluation.lvis.lvis_eval import LvisEvaluatorFixedAP
from maskrcnn_benchmark.evaluation import lvis
from maskrcnn_benchmark.evaluation.lvis import LvisEvaluator, csv_of_lines
from maskrcnn_benchmark.structures.bounding_box import BoxList
from maskrcnn_benchmark.utils import comm


def load(name: str):
    return json.loads(gzip.decompress((GOLDEN_DIR / "lvis" / name).read_bytes()))


@pytest.fixture(scope="module")
def real():
    data = load("lvis_val_100.json.gz")
    return LVIS(data), lvis_detections.make(data)


def image(image_id, negative=(), incomplete=()) -> dict:
    return {
        "id": image_id,
        "width": 100,
        "height": 100,
        "neg_category_ids": list(negative),
        "not_exhaustive_category_ids": list(incomplete),
    }


def annotation(annotation_id, image_id, category_id, bbox) -> dict:
    return {
        "id": annotation_id,
        "image_id": image_id,
        "category_id": category_id,
        "bbox": bbox,
        "area": bbox[2] * bbox[3],
    }


TOY = {
    "images": [image(1, negative=[3]), image(2, negative=[1], incomplete=[2])],
    "categories": [{"id": number, "name": f"class {number}", "frequency": "rcf"[number - 1]} for number in (1, 2, 3)],
    "annotations": [
        annotation(1, 1, 1, [10, 10, 40, 40]),
        annotation(2, 1, 2, [50, 50, 20, 20]),
        annotation(3, 2, 2, [0, 0, 60, 60]),
        annotation(4, 2, 3, [70, 70, 20, 20]),
    ],
}
TOY_PREDICTIONS = {
    1: [(10, 10, 50, 50, 0.9, 1), (10, 10, 45, 50, 0.8, 1), (50, 50, 70, 70, 0.7, 2), (0, 0, 20, 20, 0.6, 3)],
    2: [(0, 0, 60, 60, 0.95, 2), (0, 0, 30, 30, 0.5, 2), (10, 10, 50, 50, 0.99, 1), (70, 70, 90, 88, 0.3, 3)],
}
TOY_FIGURES = {
    "AP": 0.650, "AP50": 0.667, "AP75": 0.667, "APs": 0.725, "APm": 0.750, "APl": -1, "APr": 0.500, "APc": 1.000,
    "APf": 0.450, "AR@-1": 0.967, "ARs@-1": 0.950, "ARm@-1": 1.0, "ARl@-1": -1,
}  # fmt: skip


def toy_predictions() -> list[tuple[int, dict]]:
    rows = {image_id: torch.tensor(boxes) for image_id, boxes in TOY_PREDICTIONS.items()}
    return [(i, {"boxes": row[:, :4], "scores": row[:, 4], "labels": row[:, 5].long()}) for i, row in rows.items()]


@pytest.mark.parametrize("kind", ["std", "fixed"])
@pytest.mark.parametrize("name", lvis_detections.EXPECTED)
def test_real_annotations(real, name, kind):
    ground_truth, detections = real
    expected = lvis_detections.EXPECTED[name]
    assert len(detections[name]) == expected["count"]
    evaluator = LvisEvaluator(ground_truth, is_fixed=kind == "fixed")
    evaluator.update_results(detections[name])
    metrics = evaluator.summarize()
    assert {figure: metrics[figure] for figure in expected[kind]} == pytest.approx(expected[kind], abs=1e-6)


@pytest.mark.parametrize("limit", [300, 20, -1])
@pytest.mark.parametrize("number", [0, 1])
def test_equal_scores_and_crowded_images(number, limit):
    """Coarse scores, so that most are equal; several boxes per thing; overlaps with ignored and unjudged ones."""
    case = load("random_cases.json.gz")[number]
    evaluator = LvisEvaluator(LVIS(case["annotations"]), is_fixed=limit < 0, max_per_image=limit)
    evaluator.update_results(case["detections"])
    assert evaluator.summarize() == pytest.approx(case["figures"][str(limit)], abs=1e-12)


def test_order_of_images_does_not_matter(real):
    ground_truth, detections = real
    images = {}
    for row in detections["crowded"]:
        images.setdefault(row["image_id"], []).append(row)
    figures = []
    for order in (sorted(images), sorted(images, key=lambda image_id: image_id % 97)):
        evaluator = LvisEvaluator(ground_truth, max_per_class=200)
        for image_id in order:
            evaluator.update_results(images[image_id])
        assert len(evaluator.results()) < len(detections["crowded"])
        figures.append(evaluator.summarize())
    assert figures[0] == figures[1]


def test_historical_interface(tmp_path, caplog):
    caplog.set_level(logging.INFO)
    path = tmp_path / "lvis.json"
    path.write_text(json.dumps(TOY))
    evaluator = LvisEvaluatorFixedAP(LVIS(str(path)), fixed_ap=True)
    first, second = toy_predictions()
    parts = [(1, {key: value[rows] for key, value in first[1].items()}) for rows in (slice(0, 2), slice(2, None))]
    evaluator.update(parts[:1])
    evaluator.update(parts)  # an image in two parts, as for two prompts, the first of them again
    evaluator.update(dict([second]))
    evaluator.update([second])  # padding of a sampler
    evaluator.synchronize_between_processes()
    evaluator.accumulate()
    lines = evaluator.summarize()
    assert evaluator.metrics == pytest.approx(TOY_FIGURES, abs=5e-4)
    assert lines[0] == (" Average Precision  (AP) @[ IoU=0.50:0.95 | area=   all | maxDets= -1 catIds=all] = 0.650")
    assert [float(line.split(" ")[-1]) for line in lines] == list(TOY_FIGURES.values())
    assert lines[0] in caplog.text
    table = list(csv.reader(csv_of_lines(lines).splitlines(), skipinitialspace=True))
    assert table[0] == ["metric", "avg "] and table[8][0].endswith("catIds=  c]") and float(table[8][1]) == 1.0
    assert evaluator.prepare([first])[1] == {
        "image_id": 1, "category_id": 1, "bbox": [10, 10, 35, 40], "score": pytest.approx(0.8),
    }  # fmt: skip


def test_standard_ap_returns_its_lines():
    evaluator = LvisEvaluatorFixedAP(LVIS(TOY), fixed_ap=False)
    evaluator.update(toy_predictions())
    assert "maxDets=300" in evaluator.summarize()[0]


def test_boxes_are_scaled_to_the_file_and_table_and_files_are_written(tmp_path):
    evaluator = LvisEvaluator(LVIS(TOY))
    for image_id, found in toy_predictions():
        boxes = BoxList(found["boxes"] * 2, (200, 200))
        boxes.add_field("scores", found["scores"])
        boxes.add_field("labels", found["labels"])
        evaluator.update(image_id, boxes)
    metrics = evaluator.summarize()
    assert metrics == pytest.approx(TOY_FIGURES, abs=5e-4)
    assert evaluator.table["AP"] == pytest.approx({"class 1": 0.5, "class 2": 1.0, "class 3": 0.45}, abs=1e-3)
    evaluator.write(tmp_path, metrics)
    assert (tmp_path / "bbox.csv").read_text().startswith("metric, avg \n Average Precision  (AP) @[")
    stored = json.loads((tmp_path / "metrics.json").read_text())
    assert stored["bbox"] == metrics and stored["per_class"]["AP"]["class 2"] == pytest.approx(1.0)
    assert len(evaluator.results()) == 8 and evaluator.results()[0]["bbox"] == [10, 10, 40, 40]


def test_limits():
    """The 301st box of an image does not count, nor the 3rd of a class when two are kept."""
    truth = LVIS(TOY)
    boxes = np.array([[10, 10, 50, 50]] * 301, dtype=np.float32)
    labels = np.array([2] * 300 + [1])
    standard = LvisEvaluator(truth, is_fixed=False)
    standard.update_arrays(1, boxes, np.linspace(0.9, 0.1, 301, dtype=np.float32), labels)
    assert standard.summarize()["APr"] == 0.0
    fixed = LvisEvaluator(truth, max_per_class=2)
    fixed.update_arrays(1, boxes, np.linspace(0.9, 0.1, 301, dtype=np.float32), labels)
    assert fixed.summarize()["APr"] == pytest.approx(1.0)
    fixed.reset()
    fixed.update_arrays(1, boxes[:2] + 60, np.array([0.9, 0.8]), np.array([1, 1]))
    fixed.update_arrays(2, boxes[:1], np.array([0.7]), np.array([1]))
    assert len(fixed.results()) == 2


@pytest.mark.parametrize("prune_at", [0, 10**9])
def test_of_equal_scores_at_the_limit_the_first_to_come_is_kept(monkeypatch, prune_at):
    """Whatever the number of its image, also where detections are cut while they come in."""
    monkeypatch.setattr(lvis, "PRUNE_AT", prune_at)
    evaluator = LvisEvaluatorFixedAP(LVIS(TOY), topk=2)
    for number, image_id in enumerate((2, 1, 1)):
        box, one = torch.tensor([[0.0, 0.0, 9.0 + number, 9.0]]), torch.ones(1)
        evaluator.update([(image_id, {"boxes": box, "scores": one / 2, "labels": one.long()})])
    evaluator.synchronize_between_processes()
    kept = [(row["image_id"], row["bbox"][2]) for row in evaluator.evaluator.results()]
    assert kept == [(1, 10.0), (2, 9.0)]


def test_collected_detections_are_cut_while_they_come_in(real, monkeypatch):
    """Memory is bounded by the limit per class, whatever the number of images, and the figures stay the same."""
    ground_truth, detections = real
    images = {}
    for row in detections["crowded"]:
        images.setdefault(row["image_id"], []).append(row)
    evaluators = [LvisEvaluator(ground_truth, max_per_class=100) for _ in range(2)]
    for number, evaluator in enumerate(evaluators):
        monkeypatch.setattr(lvis, "PRUNE_AT", 1000 if number else 10**9)
        for rows in images.values():
            evaluator.update_results(rows)
    kept = [sum(len(part.scores) for part in evaluator._parts) for evaluator in evaluators]
    assert kept[0] == len(detections["crowded"]) and kept[1] < kept[0] / 2
    assert evaluators[0].summarize() == evaluators[1].summarize()


def test_images_of_several_processes_count_once(monkeypatch):
    predictions = toy_predictions()
    parts = []
    for chosen in (predictions, predictions[1:]):  # the second image on both, as samplers pad
        evaluator = LvisEvaluatorFixedAP(LVIS(TOY))
        evaluator.update(chosen)
        parts.append((evaluator.evaluator._limited(), evaluator.evaluator._seen))
    monkeypatch.setattr(comm, "all_gather", lambda data: [data, parts[1]])
    evaluator = LvisEvaluatorFixedAP(LVIS(TOY))
    evaluator.update(predictions)
    evaluator.synchronize_between_processes()
    assert len(evaluator.evaluator.results()) == 8
    assert evaluator.summarize() is not None and evaluator.metrics == pytest.approx(TOY_FIGURES, abs=5e-4)
    monkeypatch.setattr(comm, "is_main_process", lambda: False)
    evaluator.synchronize_between_processes()
    assert evaluator.summarize() is None


def test_only_seen_images_count_when_asked():
    for only_seen, expected in ((True, 1.0), (False, 0.0)):
        evaluator = LvisEvaluator(LVIS(TOY), only_seen=only_seen)
        evaluator.update_arrays(1, np.array([[50.0, 50, 70, 70]]), np.array([0.9]), np.array([2]))
        metrics = evaluator.summarize()
        assert metrics["APc"] == pytest.approx(1.0 if only_seen else 0.5, abs=0.01)
        assert metrics["APf"] == (-1 if only_seen else 0.0), expected


@pytest.mark.parametrize("fixed_ap", [True, False])
def test_images_without_detections(fixed_ap):
    """With the fields or without them; and entries without a box change nothing."""
    evaluator = LvisEvaluatorFixedAP(LVIS(TOY), fixed_ap=fixed_ap)
    evaluator.update([(1, {"boxes": torch.zeros(0, 4), "scores": torch.zeros(0), "labels": torch.zeros(0).long()})])
    evaluator.update({2: {"boxes": [], "scores": [], "labels": []}})
    evaluator.update(toy_predictions())
    evaluator.summarize()
    assert evaluator.metrics["AP"] == pytest.approx(TOY_FIGURES["AP"], abs=5e-4)
    plain = LvisEvaluator(LVIS(TOY), is_fixed=fixed_ap)
    plain.update(1, BoxList([], (100, 100)))
    assert plain.summarize()["AP"] == 0.0


def test_nothing_predicted_and_nothing_annotated():
    evaluator = LvisEvaluator(LVIS(TOY))
    assert (evaluator.summarize()["AP"], evaluator.summarize()["APl"]) == (0.0, -1)
    empty = LvisEvaluator(LVIS({"images": [], "categories": [], "annotations": []}))
    assert set(empty.summarize().values()) == {-1.0}
    assert evaluator.gather() and empty.gather()


def test_first_annotation_may_have_the_number_zero():
    """The reference takes a match with number 0 for none."""
    data = copy.deepcopy(TOY)
    data["annotations"][0]["id"] = 0
    evaluator = LvisEvaluatorFixedAP(LVIS(data))
    evaluator.update(toy_predictions())
    evaluator.summarize()
    assert evaluator.metrics == pytest.approx(TOY_FIGURES, abs=5e-4)


def test_lookups():
    truth = LVIS(TOY)
    assert truth.get_img_ids() == [1, 2] and truth.get_cat_ids() == [1, 2, 3] and truth.get_ann_ids() == [1, 2, 3, 4]
    assert truth.get_ann_ids(img_ids=[1], cat_ids=[2]) == [2]
    assert truth.get_ann_ids(area_rng=(0, 401)) == [2, 4] and truth.get_ann_ids(area_rng=(0, 400)) == []
    assert truth.load_anns([4])[0]["category_id"] == 3 and len(truth.load_imgs()) == 2
    assert truth.load_cats([2])[0]["frequency"] == "c"
    assert truth.cat_img_map[2] == [1, 2] and [a["id"] for a in truth.img_ann_map[2]] == [3, 4]
    square = {"image_id": 1, "segmentation": [[10, 10, 20, 10, 20, 20, 10, 20]]}
    assert truth.ann_to_mask(square).shape == (100, 100) and truth.ann_to_mask(square).sum() == 100


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda data: data.pop("categories"), "is not in LVIS format: it has no list of categories"),
        (lambda data: data["images"][0].pop("neg_category_ids"), "images 1 has no neg_category_ids"),
        (lambda data: data["categories"][0].pop("frequency"), "categories 1 has no frequency"),
        (lambda data: data["images"].append(image(2)), "the id 2 comes twice among the images"),
        (
            lambda data: data["annotations"][0].update(image_id=9),
            "annotation 1 has image_id 9, which is not among the 2",
        ),
        (lambda data: data["annotations"][0].update(category_id="a"), "annotation 1 has category_id 'a'"),
        (lambda data: data["categories"][0].update(frequency="x"), "frequency 'x' of a category is none of"),
    ],
)
def test_bad_annotations(change, message):
    data = copy.deepcopy(TOY)
    change(data)
    with pytest.raises(ValueError, match=message):
        LvisEvaluator(LVIS(data))


def test_bad_predictions(tmp_path):
    evaluator = LvisEvaluatorFixedAP(LVIS(TOY))
    with pytest.raises(
        ValueError, match="prediction for image 77, which is not among the 2 images of LVIS annotations"
    ):
        evaluator.update([(77, toy_predictions()[0][1])])
    with pytest.raises(ValueError, match=r"columns of detections have different lengths: \[1, 2\]"):
        evaluator.evaluator.update_arrays(1, np.zeros((2, 4)), np.zeros(1), np.zeros(1))
    strings = copy.deepcopy(TOY)
    for record in strings["categories"]:
        record["id"] = f"c{record['id']}"
    for record in strings["annotations"]:
        record["category_id"] = f"c{record['category_id']}"
    with pytest.raises(ValueError, match="category ids must be whole numbers"):
        LvisEvaluator(LVIS(strings))
    (tmp_path / "marked.json").write_text(json.dumps(TOY), encoding="utf-8-sig")
    assert LVIS(tmp_path / "marked.json").dataset == TOY, "with a byte order mark"
    (tmp_path / "bad.json").write_text("{")
    with pytest.raises(ValueError, match="bad.json is not valid JSON"):
        LVIS(tmp_path / "bad.json")


def test_benchmark_runs():
    path = Path(__file__).parents[2] / "benchmarks" / "lvis_evaluation.py"
    spec = importlib.util.spec_from_file_location("lvis_evaluation", path)
    benchmark = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(benchmark)
    annotations, detections = benchmark.make(3)
    assert len(detections) == 3 and detections[0][0].shape == (300, 4)
    _, fixed = benchmark.from_arrays(annotations, detections, is_fixed=True)
    _, standard = benchmark.from_arrays(annotations, detections, is_fixed=False)
    assert 0.01 < fixed["AP"] < 0.9 and fixed["AP"] == pytest.approx(standard["AP"])
