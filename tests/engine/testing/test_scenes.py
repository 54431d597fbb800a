"""Figures on generated scenes, of a detector that reads the answers from the annotation files."""

import json
from types import SimpleNamespace

import pytest
import torch

from maskrcnn_benchmark.engine.detector_api import Caption, Detector, Prediction
from maskrcnn_benchmark.engine.testing.scenes import ScenesMeasurement
from maskrcnn_benchmark.scenes.dataset import write_dataset
from maskrcnn_benchmark.text.tokenizer import build_tokenizer


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return write_dataset(tmp_path_factory.mktemp("scenes") / "novel", "novel", 4, 0)


class Oracle:
    """Stands in for a Detector: finds by name what the files say is there.

    Args:
        miss: share of the boxes to leave out, as every n-th one; 0 for none.
    """

    separation, max_tokens = ". ", 256
    prepare = Detector.prepare

    def __init__(self, folder, miss: int = 0):
        self.model = SimpleNamespace(tokenizer=build_tokenizer("scenes_bert"))
        self.miss = miss
        instances = json.loads((folder / "instances.json").read_text())
        names = {record["id"]: record["file_name"] for record in instances["images"]}
        self.things = {name: [] for name in names.values()}
        for annotation in instances["annotations"]:
            self.things[names[annotation["image_id"]]].append(annotation)
        self.phrases = {}
        grounding = json.loads((folder / "grounding.json").read_text())
        records = {record["id"]: record for record in grounding["images"]}
        for annotation in grounding["annotations"]:
            record = records[annotation["image_id"]]
            key = (record["file_name"], record["caption"], tuple(annotation["tokens_positive"][0]))
            self.phrases.setdefault(key, []).append(annotation["bbox"])
        self.asked = []

    def predict(self, paths, prompts, threshold, batch_size):
        assert threshold == 0.0 and len(paths) == len(prompts)
        self.asked += prompts
        return [self._find(path.name, prompt) for path, prompt in zip(paths, prompts, strict=True)]

    def _find(self, file_name, prompt):
        found = []
        if isinstance(prompt, Caption):
            for label, span in enumerate(prompt.phrases, start=1):
                found += [(box, label) for box in self.phrases[(file_name, prompt.text, span)]]
        else:
            for part in prompt:
                for label, phrase in part.phrases.items():
                    for thing in self.things[file_name]:
                        kind = thing["attributes"]["kind"]
                        if phrase in (kind, f"{thing['attributes']['color']} {kind}"):
                            found.append((thing["bbox"], label))
        if self.miss:
            found = [entry for number, entry in enumerate(found) if number % self.miss]
        boxes = torch.tensor([[x, y, x + w - 1, y + h - 1] for (x, y, w, h), _ in found], dtype=torch.float32)
        labels = torch.tensor([label for _, label in found], dtype=torch.int64)
        return Prediction(boxes.reshape(-1, 4), torch.full((len(found),), 0.9), labels, [""] * len(found), [], [])


def test_perfect_figures(folder):
    oracle = Oracle(folder)
    measurement = ScenesMeasurement(oracle, batch_size=3)
    assert measurement.detection(folder)["AP"] == pytest.approx(1.0)
    assert measurement.pairs(folder, novel=True)["AP50"] == pytest.approx(1.0)
    assert measurement.pairs(folder, novel=False)["AP50"] == pytest.approx(1.0)
    figures = measurement.grounding(folder)
    assert figures["Recall@1_all"] == 1.0 and figures["phrases"] >= 4
    captions = [prompt for prompt in oracle.asked if isinstance(prompt, Caption)]
    assert len(captions) == 4 and all(prompt.phrases for prompt in captions)


def test_missed_boxes_lower_the_figures(folder):
    measurement = ScenesMeasurement(Oracle(folder, miss=2))
    assert 0.2 < measurement.detection(folder)["AP"] < 0.8
    assert 0.2 < measurement.grounding(folder)["Recall@1_all"] < 0.8


def test_limit(folder):
    oracle = Oracle(folder)
    ScenesMeasurement(oracle, limit=2).detection(folder)
    assert len(oracle.asked) == 2


def test_pair_prompt_names_the_pairs_of_the_scene(folder):
    oracle = Oracle(folder)
    ScenesMeasurement(oracle).pairs(folder, novel=True)
    things = next(iter(oracle.things.values()))
    pairs = {f"{thing['attributes']['color']} {thing['attributes']['kind']}" for thing in things}
    assert set(oracle.asked[0][0].phrases.values()) == pairs
