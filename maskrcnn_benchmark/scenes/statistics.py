"""What a set of scenes is like: how many things, how small, how hidden, and how easily its phrases are confused."""

import json
from collections import Counter, defaultdict
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

SMALL_AREA = 32 * 32
"""Boxes of fewer square pixels count as small, as in COCO."""


@dataclass(frozen=True)
class SceneStatistics:
    """Shares are fractions of all boxes; the confusable counts look at every phrase of the sentences."""

    scenes: int
    boxes: int
    min_objects: int
    max_objects: int
    small_share: float
    occluded_share: float
    kinds: int
    colors: int
    pairs: int
    sentences: int
    phrases: int
    min_confusable: int
    mean_confusable: float
    textures: dict[str, int]
    sizes: dict[str, int]

    def as_dict(self) -> dict[str, Any]:
        return asdict(self)

    def __str__(self) -> str:
        rows = [
            ("scenes", f"{self.scenes}"),
            ("boxes", f"{self.boxes} ({self.min_objects} to {self.max_objects} per scene)"),
            ("boxes under 32x32 px", f"{self.small_share:.1%}"),
            ("boxes partly occluded", f"{self.occluded_share:.1%}"),
            ("kinds / colours / pairs", f"{self.kinds} / {self.colors} / {self.pairs}"),
            ("sentences / phrases", f"{self.sentences} / {self.phrases}"),
            ("confusable things per phrase", f"at least {self.min_confusable}, mean {self.mean_confusable:.2f}"),
            ("textures", ", ".join(f"{name} {count}" for name, count in self.textures.items())),
            ("sizes", ", ".join(f"{name} {count}" for name, count in self.sizes.items())),
        ]
        width = max(len(name) for name, _ in rows)
        return "\n".join(f"{name:<{width}}  {value}" for name, value in rows)


def scene_statistics(instances: Mapping[str, Any], grounding: Mapping[str, Any]) -> SceneStatistics:
    """Statistics of a scenes dataset from the parsed ``instances.json`` and ``grounding.json``.

    Raises: ValueError if there is no annotation at all.
    """
    annotations = instances["annotations"]
    if not annotations:
        raise ValueError(f"no annotations in a scenes dataset of {len(instances['images'])} images")
    by_image: dict[int, list[Mapping[str, Any]]] = defaultdict(list)
    for annotation in annotations:
        by_image[annotation["image_id"]].append(annotation)
    counts = [len(by_image[image["id"]]) for image in instances["images"]]
    attributes = [annotation["attributes"] for annotation in annotations]
    confusable = _confusable_counts(by_image, grounding)
    return SceneStatistics(
        scenes=len(instances["images"]),
        boxes=len(annotations),
        min_objects=min(counts),
        max_objects=max(counts),
        small_share=sum(a["bbox"][2] * a["bbox"][3] < SMALL_AREA for a in annotations) / len(annotations),
        occluded_share=sum(a["occluded"] for a in attributes) / len(annotations),
        kinds=len({a["kind"] for a in attributes}),
        colors=len({a["color"] for a in attributes}),
        pairs=len({(a["color"], a["kind"]) for a in attributes}),
        sentences=sum(record["caption_type"] == "sentence" for record in grounding["images"]),
        phrases=len(confusable),
        min_confusable=min(confusable, default=0),
        mean_confusable=sum(confusable) / len(confusable) if confusable else 0.0,
        textures=dict(sorted(Counter(a["texture"] for a in attributes).items())),
        sizes=dict(sorted(Counter(a["size"] for a in attributes).items())),
    )


def read_scene_statistics(folder: str | Path) -> SceneStatistics:
    """Statistics of the dataset written to ``folder`` by ``glip scenes``."""
    folder = Path(folder)
    instances, grounding = (json.loads((folder / name).read_text()) for name in ("instances.json", "grounding.json"))
    return scene_statistics(instances, grounding)


def _confusable_counts(by_image: Mapping[int, list[Mapping[str, Any]]], grounding: Mapping[str, Any]) -> list[int]:
    """For every phrase of a sentence: how many things of its scene share its kind but not its colour."""
    records = {record["id"]: record for record in grounding["images"] if record["caption_type"] == "sentence"}
    counts = []
    for annotation in grounding["annotations"]:
        record = records.get(annotation["image_id"])
        if record is None:
            continue
        things = by_image[record["original_img_id"]]
        referent = next(thing for thing in things if thing["id"] == annotation["instance_id"])["attributes"]
        counts.append(
            sum(
                thing["attributes"]["kind"] == referent["kind"] and thing["attributes"]["color"] != referent["color"]
                for thing in things
            )
        )
    return counts
