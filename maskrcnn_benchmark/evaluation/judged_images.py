"""The items of a dataset with what was found in them, as the report looks at them."""

from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from maskrcnn_benchmark.data.datasets.coco_json import is_crowd
from maskrcnn_benchmark.data.datasets.lvis import LvisDetection
from maskrcnn_benchmark.data.datasets.modulated import GroundingJson
from maskrcnn_benchmark.data.datasets.voc import PascalVOCDataset
from maskrcnn_benchmark.data.picture_files import picture_file
from maskrcnn_benchmark.evaluation.base import scores_and_labels
from maskrcnn_benchmark.evaluation.mistakes import JudgedImage
from maskrcnn_benchmark.evaluation.phrase_recall import phrase_ground_truth, phrase_texts
from maskrcnn_benchmark.structures.bounding_box import BoxList

MAX_BOXES = 100  # of an image, the best ones


class Truth(NamedTuple):
    """What an item shows: boxes (G, 4) xyxy pixels whose ends are edges, and the name of each; the name of every label
    that a detection may have, others are left out.
    """

    title: str
    size: tuple[int, int]
    boxes: np.ndarray
    names: list[str]
    name_of_label: Mapping[int, str]


class JudgedImages:
    """A dataset and what was found in it; may be looked through several times.

    Args:
        dataset: in COCO format, LvisDetection, PascalVOCDataset, or sentences with phrases; with pictures in files.
        predictions: pairs of dataset index and BoxList with `scores` and `labels`; looked through as often.
    """

    def __init__(self, dataset: Any, predictions: Iterable[tuple[int, BoxList]]):
        self.dataset = dataset
        self.predictions = predictions

    @staticmethod
    def supports(dataset: Any) -> bool:
        """Whether a dataset has pictures and a truth that this class reads."""
        is_known = isinstance(dataset, GroundingJson | LvisDetection | PascalVOCDataset)
        has_boxes = hasattr(dataset, "coco") and hasattr(dataset, "contiguous_category_id_to_json_id")
        return is_known or (has_boxes and len(dataset) > 0 and picture_file(dataset, 0) is not None)

    def __iter__(self) -> Iterator[JudgedImage]:
        for index, found in self.predictions:
            truth = self._truth(index)
            path = picture_file(self.dataset, index)
            found = found.resize(truth.size).convert("xyxy")
            scores, labels = (column.cpu().numpy() for column in scores_and_labels(found))
            order = np.argsort(-scores, kind="stable")
            order = order[np.isin(labels[order], list(truth.name_of_label))][:MAX_BOXES]
            boxes = found.bbox.cpu().numpy().astype(np.float64)[order] + np.array([0, 0, 1, 1])
            names = [truth.name_of_label[label] for label in labels[order].tolist()]
            yield JudgedImage(truth.title, Path(path or ""), truth.boxes, truth.names, boxes, scores[order], names)

    def _truth(self, index: int) -> Truth:
        record = self.dataset.get_img_info(index)
        size = (int(record["width"]), int(record["height"]))
        if isinstance(self.dataset, GroundingJson):
            return self._of_sentence(record, size)
        if isinstance(self.dataset, PascalVOCDataset):
            return self._of_voc(index, size)
        if isinstance(self.dataset, LvisDetection):
            annotations = self.dataset.lvis.imgToAnns[record["id"]]
            judged = {annotation["category_id"] for annotation in annotations} | set(record["neg_category_ids"])
            known = self.dataset.lvis.cats  # a file of some classes may still name others as absent
            names = {category: known[category]["name"] for category in judged if category in known}
            shown = [(annotation["bbox"], names[annotation["category_id"]]) for annotation in annotations]
        else:
            names = self.dataset.categories()
            label_of = self.dataset.json_category_id_to_contiguous_id
            shown = [
                (annotation["bbox"], names[label_of[annotation["category_id"]]])
                for annotation in self.dataset.coco.imgToAnns[record["id"]]
                if label_of.get(annotation["category_id"]) in names and not is_crowd(annotation)
            ]
        boxes = np.array([[x, y, x + w, y + h] for (x, y, w, h), _ in shown], dtype=np.float64).reshape(-1, 4)
        title = str(record.get("file_name", record["id"]))
        return Truth(title, size, boxes, [name for _, name in shown], names)

    def _of_voc(self, index: int, size: tuple[int, int]) -> Truth:
        """Difficult things need not be found."""
        target = self.dataset.get_groundtruth(index)
        target = target[~target.get_field("difficult")]
        names = self.dataset.categories()
        boxes = target.bbox.double().numpy() + np.array([0, 0, 1, 1])
        shown = [names[label] for label in target.get_field("labels").tolist()]
        return Truth(f"{self.dataset.ids[index]}.jpg", size, boxes, shown, names)

    def _of_sentence(self, record: Mapping[str, Any], size: tuple[int, int]) -> Truth:
        phrases = phrase_texts(record)
        found = phrase_ground_truth(record, self.dataset.coco.imgToAnns[record["id"]])
        boxes = np.concatenate([np.zeros((0, 4)), *(of_phrase.double().numpy() for of_phrase in found)])
        names = [
            phrase for phrase, of_phrase in zip(phrases.values(), found, strict=True) for _ in range(len(of_phrase))
        ]
        return Truth(f"{record.get('file_name', record['id'])}: {record['caption']}", size, boxes, names, phrases)
