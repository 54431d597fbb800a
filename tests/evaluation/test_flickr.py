"""Recall on two made-up images, whose figures are worked out by hand."""

import csv

import numpy as np
import pytest
import torch
from flickr_files import write_flickr

from maskrcnn_benchmark.data.datasets.evaluation.flickr.flickr_eval import FlickrEvaluator
from maskrcnn_benchmark.evaluation.flickr_entities import Flickr30kEntities, parse_sentence, read_boxes, read_sentences

DUMMY = [0.0, 0.0, 0.0, 0.0]
# Sentence 100_0: two men (overlaps 1/3 and 0.9 in ANY-BOX, 1 and 0.3 in MERGED-BOX), a dog (0.5625 and 0.75).
# Sentence 100_2: the dog is found second (after 0.3125); the men are never found.
# Sentence 200_0: car and road share a box; the car is found at once, the road has no prediction but the dummy.
PREDICTIONS = [
    {
        "image_id": 100,
        "sentence_id": 0,
        "boxes": [[[0, 0, 30, 10], [0, 0, 9, 10], DUMMY], [[60, 60, 90, 90], [50, 50, 90, 80], DUMMY]],
        "scores": [[0.9, 0.8], [0.7, 0.6]],
    },
    {
        "image_id": torch.tensor(100),
        "sentence_id": torch.tensor(2),
        "boxes": [[[70, 65, 90, 90], [50, 50, 90, 90]], torch.zeros(0, 4)],
    },
    {"image_id": "200", "sentence_id": 0, "boxes": [[[10, 10, 20, 20]], [DUMMY]]},
]
ANY_BOX = {
    # people: two phrases, found second and never; animals and other: first and second; other: and the road, never
    "Recall@1_all": 2 / 6, "Recall@1_people": 0.0, "Recall@1_animals": 0.5, "Recall@1_vehicles": 1.0,
    "Recall@1_other": 1 / 3,
    "Recall@5_all": 4 / 6, "Recall@5_people": 0.5, "Recall@5_animals": 1.0, "Recall@5_vehicles": 1.0,
    "Recall@5_other": 2 / 3,
}  # fmt: skip
MERGED_BOX = ANY_BOX | {"Recall@1_all": 3 / 6, "Recall@1_people": 0.5}


@pytest.fixture
def folder(tmp_path):
    return write_flickr(tmp_path / "flickr30k")


@pytest.mark.parametrize(("merge_boxes", "expected"), [(False, ANY_BOX), (True, MERGED_BOX)])
def test_recall(folder, tmp_path, merge_boxes, expected):
    evaluator = FlickrEvaluator(str(folder), subset="test", merge_boxes=merge_boxes)
    evaluator.update(PREDICTIONS)
    evaluator.synchronize_between_processes()
    evaluator.accumulate()
    figures = evaluator.summarize()
    for k in ("Recall@10", "Upper_bound"):  # more than there are predictions
        expected = expected | {name.replace("Recall@5", k): v for name, v in expected.items() if "@5" in name}
    assert figures == pytest.approx(expected)
    assert list(figures)[:2] == ["Recall@1_all", "Recall@1_animals"] and evaluator.results == figures
    evaluator.write(tmp_path / "out", figures)
    rows = list(csv.reader((tmp_path / "out" / "bbox.csv").open(), skipinitialspace=True))
    assert rows[0] == ["metric", "avg "] and {name: float(value) for name, value in rows[1:]} == figures


@pytest.mark.parametrize(
    "form", [torch.tensor, np.array, lambda rows: [torch.tensor(row) for row in rows], lambda rows: map(np.array, rows)]
)
def test_forms_of_boxes(folder, form):
    evaluator = FlickrEvaluator(folder, allow_missing=True)
    evaluator.update([PREDICTIONS[0] | {"boxes": [form(rows) for rows in PREDICTIONS[0]["boxes"]]}])
    assert evaluator.summarize()["Recall@1_all"] == 0.5 and evaluator.results["Recall@5_all"] == 1.0


def test_chosen_k_and_threshold(folder):
    evaluator = FlickrEvaluator(folder, top_k=(2,), iou_thresh=0.8)
    evaluator.update(PREDICTIONS)
    figures = evaluator.summarize()
    assert figures["Recall@2_animals"] == 0.5 and figures["Recall@2_people"] == 0.5
    assert {name.split("_")[0] for name in figures} == {"Recall@2"}


def test_repeated_and_foreign_sentences(folder, caplog):
    evaluator = FlickrEvaluator(folder)
    evaluator.update(PREDICTIONS)
    found = evaluator.recall.num_phrases
    evaluator.update([{"image_id": 100, "sentence_id": 0, "boxes": [[DUMMY], [DUMMY]]}])
    evaluator.update([{"image_id": 100, "sentence_id": 1, "boxes": [[DUMMY]]}, {"image_id": 5, "sentence_id": 0}])
    assert "sentence 100_0 comes again" in caplog.text and evaluator.recall.num_phrases == found == 6
    assert evaluator.summarize()["Recall@1_all"] == pytest.approx(2 / 6)
    evaluator.reset()
    assert evaluator.recall.num_phrases == 0


@pytest.mark.parametrize("error", [ValueError, RuntimeError])
def test_predictions_that_do_not_fit(folder, caplog, error):
    evaluator = FlickrEvaluator(folder)
    with pytest.raises(error, match="sentence 100_0: boxes for 1 phrases, but it has 2 with a box: Two men, a dog"):
        evaluator.update([{"image_id": 100, "sentence_id": 0, "boxes": [[DUMMY]]}])
    evaluator.update(PREDICTIONS[:1])
    with pytest.raises(error, match="2 of 3 sentences have no prediction: 100_2, 200_0; allow_missing=True evaluates"):
        evaluator.summarize()
    evaluator.allow_missing = True
    assert evaluator.summarize()["Recall@1_all"] == 0.5 and "2 of 3 sentences" in caplog.text


def test_files(folder):
    sentences = read_sentences(folder / "Sentences" / "100.txt")
    assert [sentence.text for sentence in sentences][1:] == ["It is the sea .", "A brown dog looks at two men ."]
    dog, men = sentences[2].phrases
    assert (dog.text, dog.first_word, dog.entity, dog.types) == ("A brown dog", 0, "2", ("animals", "other"))
    assert (men.text, men.first_word) == ("two men", 5)
    assert parse_sentence("no phrase").phrases == ()
    boxes = read_boxes(folder / "Annotations" / "200.xml")
    assert boxes.boxes == {"7": [[10, 10, 20, 20]], "8": [[10, 10, 20, 20]]} and boxes.without_box == {"9"}
    assert read_boxes(folder / "Annotations" / "100.xml").scenes == {"3"}
    entities = Flickr30kEntities(folder, "test")
    assert list(entities.phrases) == ["100_0", "100_2", "200_0"], "a sentence whose phrases have no box is left out"
    assert entities.phrases["100_0"][0].boxes == [[0, 0, 10, 10], [20, 0, 30, 10]]


def test_bad_files(folder):
    with pytest.raises(FileNotFoundError, match="val.txt is missing: recall on Flickr30k needs Flickr30k Entities"):
        FlickrEvaluator(folder, subset="val")
    with pytest.raises(ValueError, match="subset='dev': give train, val or test"):
        FlickrEvaluator(folder, subset="dev")
    (folder / "Annotations" / "200.xml").write_text(
        "<a><object><name>7</name><bndbox><xmin>1</xmin></bndbox></object></a>"
    )
    with pytest.raises(ValueError, match="200.xml: a box of 7 lacks a corner"):
        FlickrEvaluator(folder)
    (folder / "Annotations" / "200.xml").write_text("<a>")
    with pytest.raises(ValueError, match="200.xml is not valid XML"):
        FlickrEvaluator(folder)
