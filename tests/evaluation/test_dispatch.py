"""The historical entrance to the evaluation, for every kind of dataset."""

import json
import math

import numpy as np
import pytest
import torch
from data_files import write_coco_toy, write_grounding_toy
from evaluation_data import found
from PIL import Image
from tsv_files import write_detection_tsv

from maskrcnn_benchmark.data.datasets import COCODataset, LvisDetection, ODTSVDataset, PascalVOCDataset, VGDetectionTSV
from maskrcnn_benchmark.data.datasets.evaluation import evaluate
from maskrcnn_benchmark.data.datasets.modulated import FlickrDataset
from maskrcnn_benchmark.data.datasets.voc import CLASSES
from maskrcnn_benchmark.evaluation.coco import COCOResults
from maskrcnn_benchmark.evaluation.expected_results import check_expected_results
from maskrcnn_benchmark.evaluation.proposals import best_pairs
from maskrcnn_benchmark.structures.bounding_box import BoxList
from maskrcnn_benchmark.text.tokenizer import build_tokenizer

SIZE = (100, 80)


COCO_PREDICTIONS = [found([10, 10, 39, 39, 1, 0.9]), found([20, 20, 59, 59, 2, 0.8]), found()]  # of images 2, 5, 9


def test_coco(tmp_path):
    data = COCODataset(write_coco_toy(tmp_path), tmp_path, False)
    results, predictions = evaluate(
        dataset=data, predictions=COCO_PREDICTIONS, output_folder=str(tmp_path / "out"), report_title="toy"
    )
    assert "<h1>toy</h1>" in (tmp_path / "out" / "report.html").read_text()
    assert results.results["bbox"]["AP"] == pytest.approx(1.0) and results.results["bbox"]["APl"] == -1
    assert predictions["bbox"] == [
        {"image_id": 2, "category_id": 7, "bbox": [10, 10, 30, 30], "score": pytest.approx(0.9)},
        {"image_id": 5, "category_id": 3, "bbox": [20, 20, 40, 40], "score": pytest.approx(0.8)},
    ]
    assert json.loads((tmp_path / "out" / "bbox.json").read_text()) == predictions["bbox"]
    by_index, _ = evaluate(data, {1: COCO_PREDICTIONS[1]})
    assert by_index.results["bbox"]["AP"] == pytest.approx(1.0), "only what was predicted counts"


@pytest.mark.parametrize("is_crowd_only", [False, True])
def test_images_without_predictions_need_no_fields(tmp_path, is_crowd_only):
    """An image without things, a category without things, and images in which nothing was found."""
    data = COCODataset(write_coco_toy(tmp_path), tmp_path, False)
    nothing = BoxList([], SIZE)
    boxes = [nothing if is_crowd_only else COCO_PREDICTIONS[0], nothing, found([5, 5, 64, 64, 2, 0.7])]
    results, predictions = evaluate(data, boxes, str(tmp_path / "out"), report_title="toy")
    assert results.results["bbox"]["AP"] == pytest.approx(0.0 if is_crowd_only else 0.5)
    assert (tmp_path / "out" / "report.html").is_file()
    assert len(predictions["bbox"]) == 2 - is_crowd_only, "that in the crowd is neither right nor wrong"
    proposals, _ = evaluate(data, boxes, box_only=True)
    assert proposals.results["box_proposal"]["AR@100"] == (0.0 if is_crowd_only else 0.5)
    assert evaluate(data, [nothing] * 3)[0].results["bbox"]["AP"] == 0.0


def test_boxes_without_classes(tmp_path):
    data = COCODataset(write_coco_toy(tmp_path), tmp_path, False)
    boxes = [found([10, 10, 39, 39, 9, 0.9]), found([20, 20, 59, 39, 1, 0.8], [0, 0, 9, 9, 1, 0.9]), found()]
    results, predictions = evaluate(data, boxes, str(tmp_path / "out"), box_only=True)
    figures = results.results["box_proposal"]
    # the cat (900 square pixels) with overlap 1, the dog (1600) with overlap 0.5; the crowd does not count
    assert figures["AR@100"] == figures["AR@1000"] == pytest.approx((1.0 + 0.1) / 2)
    assert (figures["ARs@100"], figures["ARm@100"], figures["ARl@100"]) == (1.0, pytest.approx(0.1), -1.0)
    assert predictions is boxes and (tmp_path / "out" / "box_proposals.pth").is_file()


def test_best_pairs():
    overlaps = np.array([[0.9, 0.8], [0.85, 0.1], [0.0, 0.3]])
    assert best_pairs(overlaps).tolist() == [0.9, 0.3], "the best pair first, each box once"
    assert best_pairs(np.zeros((0, 3))).tolist() == [0, 0, 0] and best_pairs(np.zeros((2, 0))).tolist() == []


def test_tsv(tmp_path):
    data = ODTSVDataset(write_detection_tsv(tmp_path))
    targets = [data.read_target(index, SIZE) for index in range(len(data))]
    for target in targets:
        target.add_field("scores", torch.ones(len(target)))
    results, predictions = evaluate(data, targets)
    assert results.results["bbox"]["AP"] == pytest.approx(1.0) and len(predictions["bbox"]) == 4
    results, _ = evaluate(data, [target[:1] for target in targets])
    assert results.results["bbox"]["AP"] < 0.9


def test_visual_genome(tmp_path, bert_vocabulary):
    data = VGDetectionTSV(
        "vg",
        write_detection_tsv(tmp_path),
        tokenizer=build_tokenizer(bert_vocabulary),
        control_probabilities=(0.0, 0.0, 0.5, 0.0),
    )
    targets = [data.read_target(index, SIZE) for index in range(len(data))]
    for target in targets:
        target.add_field("scores", torch.ones(len(target)))
    found_dogs = [target[target.get_field("labels") == 2] for target in targets]
    evaluate(data, found_dogs, str(tmp_path / "out"))
    lines = (tmp_path / "out" / "result_obj.txt").read_text().splitlines()
    assert lines[:3] == ["mAP: 0.5000", "weighted_mAP: 0.5000", "AR: 0.5000"] and lines[4] == "hot_dog         : 1.0000"
    assert (tmp_path / "out" / "bbox.csv").is_file()


def voc(folder, difficult="") -> PascalVOCDataset:
    """Two pictures with a dog each, which is difficult in one of them."""
    for part in ("Annotations", "ImageSets/Main", "JPEGImages"):
        (folder / part).mkdir(parents=True)
    for name in ("a", "b"):
        Image.new("RGB", SIZE).save(folder / "JPEGImages" / f"{name}.jpg")
        (folder / "Annotations" / f"{name}.xml").write_text(
            "<annotation><size><width>100</width><height>80</height></size><object><name>dog</name>"
            f"<difficult>{int(name == difficult)}</difficult><bndbox><xmin>1</xmin><ymin>1</ymin><xmax>50</xmax>"
            "<ymax>40</ymax></bndbox></object></annotation>"
        )
    (folder / "ImageSets" / "Main" / "test.txt").write_text("a\nb\n")
    return PascalVOCDataset(folder, "test", use_difficult=True)


def test_voc(tmp_path):
    data = voc(tmp_path)
    result = evaluate(data, [found([0, 0, 49, 39, 12, 0.9]), found()], str(tmp_path / "out"))
    assert result["map"] == pytest.approx(6 / 11), "half of the dogs, at precision 1"
    assert len(result["ap"]) == 21 and result["ap"][12] == result["map"] and math.isnan(result["ap"][0])
    lines = (tmp_path / "out" / "result.txt").read_text().splitlines()
    assert lines[0] == "mAP: 0.5455" and lines[1] == "aeroplane       : nan" and len(lines) == 21
    figures = json.loads((tmp_path / "out" / "metrics.json").read_text())
    assert figures["bbox"]["mAP"] == result["map"] and figures["per_class"]["AP"]["aeroplane"] is None
    assert figures["per_class"]["AR"] == {name: 0.5 if name == "dog" else None for name in CLASSES[1:]}
    assert not (tmp_path / "out" / "report.html").exists()


def test_page_of_voc(tmp_path):
    """The things that VOC calls difficult need not be found; a picture without things has no mistakes."""
    data = voc(tmp_path, difficult="b")
    boxes = [found([0, 0, 49, 39, 12, 0.9]), found(), found([60, 60, 70, 70, 1, 0.8])]
    evaluate(data, boxes[:2], str(tmp_path / "out"), report_title="small <voc>")
    page = (tmp_path / "out" / "report.html").read_text()
    assert (
        "<h1>small &lt;voc&gt;</h1>" in page and "<h2>Precision over recall</h2>" in page and "worst images" not in page
    )
    confusions = (tmp_path / "out" / "confusions.csv").read_text().splitlines()
    assert confusions == ["thing,found as,times", "dog,dog,1"]
    evaluate(data, {0: boxes[2]}, str(tmp_path / "out"), report_title="small")
    page = (tmp_path / "out" / "report.html").read_text()
    assert "The 1 worst images" in page and "a.jpg" in page and "0 of 1 found, 1 of 1 detections wrong" in page


def test_lvis(tmp_path):
    path = write_coco_toy(tmp_path)
    content = json.loads(path.read_text())
    for record in content["images"]:
        record |= {"neg_category_ids": [11], "not_exhaustive_category_ids": []}
    for record in content["categories"]:
        record["frequency"] = "f"
    path.write_text(json.dumps(content))
    boxes = [found([10, 10, 40, 40, 7, 0.9]), found([20, 20, 60, 60, 3, 0.8]), found([5, 5, 65, 65, 3, 0.7])]
    figures = evaluate(LvisDetection(tmp_path, path), boxes, str(tmp_path / "out"))
    assert figures["AP"] == figures["APf"] == pytest.approx(1.0) and figures["APr"] == -1
    assert (tmp_path / "out" / "bbox.csv").is_file()


def test_what_cannot_be_evaluated(tmp_path):
    data = COCODataset(write_coco_toy(tmp_path), tmp_path, False)
    with pytest.raises(ValueError, match="predictions for item 3 of a dataset with 3 items"):
        evaluate(data, [*COCO_PREDICTIONS, found()])
    with pytest.raises(ValueError, match=r"iou_types=\('segm',\): only boxes are"):
        evaluate(data, COCO_PREDICTIONS, iou_types=("segm",))
    (tmp_path / "text").mkdir()
    phrases = FlickrDataset(tmp_path, write_grounding_toy(tmp_path / "text"), is_train=True)
    with pytest.raises(NotImplementedError, match="boxes in a FlickrDataset cannot be evaluated; known are"):
        evaluate(phrases, [])


def test_expected_results(tmp_path, caplog):
    data = COCODataset(write_coco_toy(tmp_path), tmp_path, False)
    expected = [("bbox", "AP", (0.99, 0.01)), ("bbox", "AP50", (0.5, 0.1))]
    evaluate(data, COCO_PREDICTIONS, expected_results=expected, expected_results_sigma_tol=4)
    assert (
        "FAIL: bbox > AP50, 1.0000, expected 0.5000 +- 0.1000" in caplog.text and "FAIL: bbox > AP," not in caplog.text
    )
    results = COCOResults("bbox")
    assert check_expected_results(results, [("bbox", "AP", (-1, 0.1))]), "the historical form"
    figures = {"bbox": {"AP": 0.42}}
    assert check_expected_results(figures, [("bbox", "AP", (0.40, 0.01))])
    assert not check_expected_results(figures, [("bbox", "AP", (0.40, 0.01))], sigma_tolerance=1)
    with pytest.raises(ValueError, match="names the figure bbox APx; known are bbox AP"):
        check_expected_results(figures, [("bbox", "APx", (0.4, 0.1))])
    with pytest.raises(ValueError, match="has the entry 0.4; give"):
        check_expected_results(figures, [0.4])
