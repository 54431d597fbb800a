"""The page on an evaluation, for detections, LVIS, and phrases."""

import csv
import json

import numpy as np
import pytest
from data_files import write_coco_toy, write_grounding_toy
from evaluation_data import found
from PIL import Image

from maskrcnn_benchmark.data.datasets import COCODataset, FlickrDataset, LvisDetection
from maskrcnn_benchmark.evaluation import CocoEvaluator
from maskrcnn_benchmark.evaluation.average_precision import RECALLS
from maskrcnn_benchmark.evaluation.judged_images import JudgedImages
from maskrcnn_benchmark.evaluation.report import Report, mean_curves, write_phrase_report


@pytest.fixture
def data(tmp_path) -> COCODataset:
    return COCODataset(write_coco_toy(tmp_path), tmp_path, False)


PREDICTIONS = [
    (0, found([20, 20, 78, 78, 1, 0.9], [0, 0, 9, 9, 1, 0.3], size=(200, 160))),
    (1, found([20, 20, 59, 59, 1, 0.95])),
    (2, found()),
]


def test_page_of_detections(data, tmp_path):
    evaluator = CocoEvaluator(data.coco, data.contiguous_category_id_to_json_id)
    for index, boxes in PREDICTIONS:
        evaluator.update(data.id_to_img_map[index], boxes)
    metrics = evaluator.summarize()
    curves = mean_curves(evaluator.mean_precision(), RECALLS)
    assert list(curves) == ["IoU 0.50", "IoU 0.75", "mean of IoU 0.50 to 0.95"]
    assert curves["IoU 0.50"][1][0] == pytest.approx(0.25), "the second of two for the cat, never for the dog"
    report = Report("toy <set>", metrics, evaluator.table, curves, JudgedImages(data, PREDICTIONS))
    page = report.write(tmp_path / "out").read_text()
    assert page.startswith("<!doctype html>") and "<h1>toy &lt;set&gt;</h1>" in page
    for title in ("Figures", "Precision over recall", "AP by class", "Phrases taken for each other"):
        assert f"<h2>{title}</h2>" in page
    assert "The 1 worst images" in page and page.count("data:image/jpeg;base64,") == 1 and page.count("<svg") == 3
    assert "5.png" in page and "0 of 1 found, 1 of 1 detections wrong" in page
    assert "Classes without ground truth, which are left out: 1" in page
    with Image.open(tmp_path / "out" / "report.png") as picture:
        assert picture.width > 200 and np.asarray(picture).std() > 1
    rows = list(csv.reader((tmp_path / "out" / "confusions.csv").open()))
    assert rows == [["thing", "found as", "times"], ["cat", "cat", "1"], ["dog", "cat", "1"]]
    rows = list(csv.reader((tmp_path / "out" / "per_class.csv").open()))
    assert rows[0] == ["class", "AP", "AP50", "APs", "APm", "APl"] and rows[1][:2] == ["dog", "0.0"]
    assert [row[0] for row in rows[1:]] == ["dog", "cat", "absent, thing"] and rows[3][1] == "nan"


def test_things_of_a_picture(data):
    first, second, crowd = JudgedImages(data, PREDICTIONS)
    assert (first.title, first.truth_names, first.truth_boxes.tolist()) == ("2.png", ["cat"], [[10, 10, 40, 40]])
    assert first.path.is_file() and first.names == ["cat", "cat"]
    assert first.boxes[0].tolist() == [10, 10, 40, 40], "in pixels of the file, whose ends are edges"
    assert crowd.truth_names == [] and len(second.boxes) == 1


def test_classes_that_nobody_looked_for_are_not_mistakes(tmp_path):
    path = write_coco_toy(tmp_path)
    content = json.loads(path.read_text())
    for record in content["images"]:
        record |= {"neg_category_ids": [11, 999], "not_exhaustive_category_ids": []}  # 999 is not in the file
    path.write_text(json.dumps(content))
    data = LvisDetection(tmp_path, path)
    predictions = [(0, found([10, 10, 39, 39, 7, 0.9], [50, 50, 60, 60, 3, 0.8], [0, 0, 9, 9, 11, 0.7]))]
    (image,) = JudgedImages(data, predictions)
    assert image.truth_names == ["cat"] and image.names == ["cat", "absent, thing"]


def test_page_of_phrases(tmp_path, bert_vocabulary):
    from maskrcnn_benchmark.text.tokenizer import build_tokenizer

    path = write_grounding_toy(tmp_path)
    content = json.loads(path.read_text())
    content["images"][1]["tokens_positive_eval"] = [[[2, 7], [8, 11]]]
    path.write_text(json.dumps(content))
    data = FlickrDataset(tmp_path, path, tokenizer=build_tokenizer(bert_vocabulary))
    predictions = [
        (0, found([10, 10, 29, 29, 1, 0.9], [10, 10, 29, 29, 2, 0.8], [0, 0, 5, 5, 3, 0.7])),
        (1, found([50, 10, 79, 39, 1, 0.9])),
    ]
    first, second = JudgedImages(data, predictions)
    assert first.names == ["the red cup", "the dog"] and first.truth_names == ["the red cup", "the dog"]
    assert second.truth_names == ["small dog"] and first.title == "scene.png: the red cup left of the dog"
    figures = {"Recall@1_all": 2 / 3, "Upper_bound_all": 1.0}
    write_phrase_report(tmp_path / "out", "phrases", data, predictions, figures)
    text = (tmp_path / "out" / "report.html").read_text()
    assert (tmp_path / "out" / "per_class.csv").read_text().splitlines()[0] == "class,Recall@1,Upper_bound"
    assert "Recall@1 by class" in text and "the red cup left of the dog" in text and "0.6667" in text


def test_page_without_images_and_curves(tmp_path):
    page = Report("nothing", {"AP": -1.0}).write(tmp_path).read_text()
    assert "<td>AP</td>" in page and "<h2>Precision" not in page and not (tmp_path / "report.png").exists()
    assert mean_curves(np.full((10, 101, 2), -1.0), RECALLS) == {}


def test_picture_that_cannot_be_read(data, tmp_path):
    (tmp_path / "5.png").unlink()
    page = Report("missing", {}, images=JudgedImages(data, PREDICTIONS)).write(tmp_path / "out").read_text()
    assert page.count("data:image/jpeg;base64,") == 1


def test_what_can_be_looked_at(data):
    assert JudgedImages.supports(data) and not JudgedImages.supports([1, 2])
