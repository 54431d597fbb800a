"""COCO figures of a set small enough to know them."""

import csv
import json
import math

import pytest
import torch
from data_files import write_coco_toy
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

from maskrcnn_benchmark.data.datasets.coco import COCODataset
from maskrcnn_benchmark.data.datasets.coco_json import CategoryNumbering, load_coco_json
from maskrcnn_benchmark.evaluation import CocoEvaluator, COCOResults
from maskrcnn_benchmark.structures.bounding_box import BoxList


def prediction(box, label, score, size=(100, 80)) -> BoxList:
    boxes = BoxList([box] if box else [], size)
    boxes.add_field("labels", torch.tensor([label] * len(boxes)))
    boxes.add_field("scores", torch.tensor([score] * len(boxes)))
    return boxes


@pytest.fixture
def evaluator(tmp_path) -> CocoEvaluator:
    data = COCODataset(write_coco_toy(tmp_path), tmp_path, remove_images_without_annotations=False)
    return CocoEvaluator(data.coco, data.contiguous_category_id_to_json_id)


def fill(evaluator: CocoEvaluator) -> None:
    evaluator.update(2, prediction([10, 10, 39, 39], 1, 0.9))
    evaluator.update(5, prediction([40, 40, 119, 119], 2, 0.8, size=(200, 160)))  # network size, twice the file's
    evaluator.update(9, prediction(None, 1, 0.5))


def test_perfect_predictions(evaluator, tmp_path):
    fill(evaluator)
    assert evaluator.results()[0]["bbox"] == [10, 10, 30, 30]
    assert evaluator.results()[0]["category_id"] == 7
    metrics = evaluator.summarize()
    assert metrics["AP"] == pytest.approx(1.0) and metrics["AP50"] == pytest.approx(1.0) and metrics["APl"] == -1.0
    evaluator.write(tmp_path / "out", metrics)
    rows = list(csv.reader((tmp_path / "out" / "bbox.csv").open(), skipinitialspace=True))
    assert rows[0] == ["metric", "dog", "cat", "absent, thing", "avg "]
    plain = next(csv.reader((tmp_path / "out" / "bbox.csv").open()))
    assert [cell.strip() for cell in plain] == ["metric", "dog", "cat", "absent, thing", "avg"], "for any reader of CSV"
    assert [row[0] for row in rows[1:4]] == [
        "Average Precision  (AP) @[ IoU=0.50:0.95 | area=   all | maxDets=100 ]",
        "Average Precision  (AP) @[ IoU=0.50      | area=   all | maxDets=100 ]",
        "Average Precision  (AP) @[ IoU=0.50:0.95 | area= small | maxDets=100 ]",
    ]
    assert [float(cell) for cell in rows[1][1:3]] == pytest.approx([1.0, 1.0])
    assert math.isnan(float(rows[1][3])) and float(rows[1][4]) == pytest.approx(1.0), "avg equals AP"
    stored = json.loads((tmp_path / "out" / "metrics.json").read_text())
    assert stored["bbox"]["AP"] == pytest.approx(1.0) and stored["per_class"]["AP"]["absent, thing"] is None
    assert stored["bbox"]["AR@1"] == pytest.approx(1.0) and stored["bbox"]["ARl@100"] == -1
    assert (tmp_path / "out" / "bbox.json").read_text() == json.dumps(evaluator.results())
    assert len(evaluator.results()) == 2
    kept = torch.load(tmp_path / "out" / "coco_results.pth", weights_only=False)
    assert kept.results["bbox"]["AP50"] == metrics["AP50"]
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == [
        "bbox.csv", "bbox.json", "coco_results.pth", "metrics.json",
    ]  # fmt: skip


def test_boxes_get_their_width_with_the_last_pixel(evaluator):
    evaluator.update(5, prediction([20, 20, 59, 59], 2, 0.8))
    assert evaluator.results()[0]["bbox"] == [20, 20, 40, 40]


def test_wrong_label_is_wrong_and_unknown_labels_are_left_out(evaluator):
    evaluator.update(2, prediction([10, 10, 39, 39], 2, 0.9))
    assert evaluator.summarize()["AP"] == 0.0
    evaluator.reset()
    evaluator.update(2, prediction([10, 10, 39, 39], 44, 0.9))
    assert evaluator.results() == []


def test_no_prediction_at_all_is_zero(evaluator):
    for image_id in (2, 5, 9):
        evaluator.update(image_id, prediction(None, 1, 0.5))
    assert evaluator.summarize()["AP"] == 0.0


def test_only_images_that_were_seen_count(evaluator):
    evaluator.update(2, prediction([10, 10, 39, 39], 1, 0.9))
    assert evaluator.summarize()["AP"] == pytest.approx(1.0)


def test_chosen_categories(evaluator):
    chosen = CocoEvaluator(evaluator.ground_truth, evaluator.category_of_label, categories=[3])
    chosen.update(2, prediction(None, 1, 0.5))
    chosen.update(5, prediction([20, 20, 59, 59], 2, 0.8))
    assert chosen.summarize()["AP50"] == pytest.approx(1.0)
    assert list(chosen.table["AP"]) == ["dog"]


def test_labels_may_share_a_category(evaluator):
    shared = CocoEvaluator(evaluator.ground_truth, {1: 7, 2: 7, 3: 3})
    shared.update(2, prediction([10, 10, 39, 39], 2, 0.9))
    assert shared.summarize()["AP"] == pytest.approx(1.0) and list(shared.table["AP"]) == ["dog", "cat"]
    assert shared.precision.shape[2] == 2


def test_gather_keeps_every_image_once(evaluator):
    fill(evaluator)
    assert evaluator.gather()
    assert len(evaluator.results()) == 2


def scattered(generator, count: int, center: torch.Tensor | None = None) -> torch.Tensor:
    """(count, 4) xyxy boxes in 300 x 200 pixels, near `center` (4,) if given."""
    if center is not None:
        return center + torch.randint(-8, 9, (count, 4), generator=generator)
    corner = torch.rand(count, 2, generator=generator) * torch.tensor([150.0, 100.0])
    return torch.cat([corner, corner + 5 + torch.rand(count, 2, generator=generator) * 140], 1).round()


def random_set(category_ids) -> tuple[dict, dict[int, BoxList]]:
    """(annotation file, predictions by image id): several boxes per thing, crowds, equal scores, wrong labels."""
    generator = torch.Generator().manual_seed(0)
    images, annotations, predictions = [], [], {}
    for image_id in (4, 19, 7, 23, 11, 2):
        images.append({"id": image_id, "width": 300, "height": 200, "file_name": f"{image_id}.jpg"})
        boxes, labels = [scattered(generator, 20)], [torch.randint(1, 5, (20,), generator=generator)]
        for box in scattered(generator, 9):
            label = int(torch.randint(1, 4, (1,), generator=generator))
            x1, y1, x2, y2 = box.tolist()
            bbox = [x1, y1, x2 - x1 + 1, y2 - y1 + 1]
            number = len(annotations) + 1
            record = {"id": number, "image_id": image_id, "category_id": category_ids[label - 1], "bbox": bbox}
            annotations.append(record | {"area": 0.8 * bbox[2] * bbox[3], "iscrowd": int(number % 7 == 0)})
            boxes.append(scattered(generator, 3, box))
            labels.append(torch.full((3,), label))
        predictions[image_id] = BoxList(torch.cat(boxes), (300, 200))
        predictions[image_id].add_field("labels", torch.cat(labels))
        scores = torch.randint(1, 30, (len(torch.cat(labels)),), generator=generator) / 30
        predictions[image_id].add_field("scores", scores)
    categories = [{"id": category, "name": f"thing {category}"} for category in category_ids]
    return {"images": images, "annotations": annotations, "categories": categories, "info": {}}, predictions


@pytest.mark.parametrize("ids", [(1, 2, 3), (90, 0, 17), ("dog", "a cat", "10")], ids=["usual", "sparse", "texts"])
def test_figures_are_those_of_pycocotools(tmp_path, ids):
    """Expected: pycocotools called with a list of results written here, boxes with the inclusive last pixel."""
    content, predictions = random_set(ids)
    path = tmp_path / "random.json"
    path.write_text(json.dumps(content))
    results = [
        {"image_id": i, "category_id": ids[label - 1], "bbox": [x1, y1, x2 - x1 + 1, y2 - y1 + 1], "score": score}
        for i, found in predictions.items()
        for (x1, y1, x2, y2), label, score in zip(
            found.bbox.tolist(), found.get_field("labels").tolist(), found.get_field("scores").tolist(), strict=True
        )
        if label <= 3
    ]
    truth = COCO(str(path))
    expected = COCOeval(truth, truth.loadRes(results), "bbox")
    expected.evaluate()
    expected.accumulate()
    expected.summarize()

    coco = load_coco_json(path)
    evaluator = CocoEvaluator(coco, CategoryNumbering(content["categories"]).id_of)
    for image_id, found in predictions.items():
        evaluator.update(image_id, found)
    metrics = evaluator.summarize()
    assert list(metrics.values()) == expected.stats[:6].tolist() and 0.1 < metrics["AP"] < 0.6
    assert list(evaluator.recalls.values()) == expected.stats[6:].tolist()
    position = sorted(ids).index(ids[1])
    of_category = expected.eval["precision"][:, :, position, 0, 2]
    assert evaluator.table["AP"][f"thing {ids[1]}"] == of_category.mean()


def test_names_come_from_the_replaced_list_of_categories(tmp_path):
    replaced = [{"id": 7, "name": "kitten"}, {"id": 3, "name": "dog"}, {"id": 12, "name": "dog"}]
    data = COCODataset(write_coco_toy(tmp_path), tmp_path, False, override_category=replaced)
    evaluator = CocoEvaluator(data.coco, data.contiguous_category_id_to_json_id)
    fill(evaluator)
    assert evaluator.summarize()["AP"] == pytest.approx(1.0)
    assert list(evaluator.table["AP"]) == ["dog (3)", "kitten", "dog (12)"]


def test_annotations_without_crowd_and_area(tmp_path):
    path = write_coco_toy(tmp_path)
    content = json.loads(path.read_text())
    for annotation in content["annotations"]:
        del annotation["area"], annotation["iscrowd"]
    path.write_text(json.dumps(content))
    data = COCODataset(path, tmp_path, False)
    evaluator = CocoEvaluator(data.coco, data.contiguous_category_id_to_json_id)
    evaluator.update(2, prediction([10, 10, 39, 39], 1, 0.9))
    assert evaluator.summarize()["APs"] == pytest.approx(1.0)


def test_empty_set(tmp_path):
    path = tmp_path / "empty.json"
    path.write_text(json.dumps({"images": [], "annotations": [], "categories": [{"id": 1, "name": "cat"}]}))
    evaluator = CocoEvaluator(load_coco_json(path), {1: 1})
    metrics = evaluator.summarize()
    assert set(metrics.values()) == {-1.0}
    evaluator.write(tmp_path / "out", metrics)
    assert json.loads((tmp_path / "out" / "metrics.json").read_text())["per_class"]["AP"] == {"cat": None}


def test_kinds_of_results():
    kinds = COCOResults("bbox", "segm", "keypoints", "box_proposal").results
    assert list(kinds["segm"]) == list(kinds["bbox"]) == ["AP", "AP50", "AP75", "APs", "APm", "APl"]
    assert list(kinds["keypoints"]) == ["AP", "AP50", "AP75", "APm", "APl"]
    assert set(kinds["bbox"].values()) == {-1} and len(kinds["box_proposal"]) == 8
    with pytest.raises(ValueError, match="'masks': known are bbox, segm, keypoints, box_proposal"):
        COCOResults("masks")


def test_bad_input(evaluator, tmp_path):
    with pytest.raises(ValueError, match="prediction for image 44, which is not among the 3 images of the annotations"):
        evaluator.update(44, prediction(None, 1, 0.5))
    with pytest.raises(ValueError, match="category ids must all be numbers or all be texts, not 1, 'b'"):
        CocoEvaluator(evaluator.ground_truth, {1: 1, 2: "b"})
    path = tmp_path / "toy.json"
    content = json.loads(path.read_text())
    content["images"].append(content["images"][0])
    path.write_text(json.dumps(content))
    with pytest.raises(ValueError, match="toy.json: 1 image ids come more than once: 5"):
        load_coco_json(path)


def test_annotation_with_the_id_zero_is_told(caplog):
    """Its detection counts as wrong with pycocotools, whose figures these are."""
    truth = COCO()
    truth.dataset = {
        "images": [{"id": 1, "width": 100, "height": 80}],
        "categories": [{"id": 1, "name": "cat"}],
        "annotations": [{"id": 0, "image_id": 1, "category_id": 1, "bbox": [10, 10, 30, 30]}],
    }
    truth.createIndex()
    CocoEvaluator(truth, {1: 1})
    assert "an annotation has the id 0" in caplog.text
