"""Writes a set of scenes: pictures, COCO detection JSON and MDETR-style grounding JSON."""

import json
import multiprocessing
import os
from collections.abc import Callable, Iterable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

from maskrcnn_benchmark.scenes.generator import generate_scene
from maskrcnn_benchmark.scenes.kinds import KINDS
from maskrcnn_benchmark.scenes.palette import ALL_PAIRS, NOVEL_PAIRS, pair_name
from maskrcnn_benchmark.scenes.scene import Scene
from maskrcnn_benchmark.scenes.styles import PLAIN, STYLES
from maskrcnn_benchmark.utils.complete_files import completed_folder

FORMATS = ("jpg", "png")
DATASET_NAME = "scenes"
Json = dict[str, Any]
Progress = Callable[[Iterable[Scene]], Iterable[Scene]]

_KIND_IDS = {kind: position + 1 for position, kind in enumerate(KINDS)}
_PAIR_IDS = {pair: position + 1 for position, pair in enumerate(ALL_PAIRS)}


def _image_record(index: int, scene: Scene, file_name: str) -> Json:
    return {"id": index + 1, "file_name": file_name, "width": scene.width, "height": scene.height}


def build_instances(scenes: list[Scene], file_names: list[str]) -> Json:
    """COCO detection JSON: one category per kind, colour and the rest in ``attributes``; boxes are x, y, w, h."""
    annotations: list[Json] = []
    for index, scene in enumerate(scenes):
        for item in scene.objects:
            annotations.append(
                {
                    "id": len(annotations) + 1,
                    "image_id": index + 1,
                    "category_id": _KIND_IDS[item.kind],
                    "bbox": list(item.bbox),
                    "area": item.bbox[2] * item.bbox[3],
                    "iscrowd": 0,
                    "attributes": item.attributes(),
                }
            )
    return {
        "info": {"description": "Procedural scenes: detection of kinds"},
        "images": [_image_record(i, scene, file_names[i]) for i, scene in enumerate(scenes)],
        "categories": [{"id": number, "name": kind, "supercategory": "thing"} for kind, number in _KIND_IDS.items()],
        "annotations": annotations,
    }


def build_pair_instances(scenes: list[Scene], file_names: list[str]) -> Json:
    """COCO detection JSON with one category per colour-kind pair.

    Categories carry ``novel`` (never in train or val); images carry ``pairs``, the category ids present in them.
    """
    result = build_instances(scenes, file_names)
    for annotation in result["annotations"]:
        attributes = annotation["attributes"]
        annotation["category_id"] = _PAIR_IDS[(attributes["color"], attributes["kind"])]
    for record, scene in zip(result["images"], scenes, strict=True):
        record["pairs"] = sorted(_PAIR_IDS[pair] for pair in scene.pairs())
    result["info"] = {"description": "Procedural scenes: detection of colour-kind pairs"}
    result["categories"] = [
        {
            "id": number,
            "name": pair_name(pair),
            "supercategory": pair[1],
            "color": pair[0],
            "kind": pair[1],
            "novel": pair in NOVEL_PAIRS,
        }
        for pair, number in _PAIR_IDS.items()
    ]
    return result


def build_grounding(scenes: list[Scene], file_names: list[str]) -> Json:
    """MDETR-style JSON: one image record per caption, one annotation per phrase and thing it names.

    ``tokens_positive`` are character spans [begin, end); ``tokens_positive_eval`` holds one list of spans per phrase
    that names something; ``instance_id`` is the annotation's id in ``instances.json``.
    """
    images: list[Json] = []
    annotations: list[Json] = []
    first_instance = 1
    for index, scene in enumerate(scenes):
        for sentence_id, caption in enumerate(scene.captions):
            record = _image_record(index, scene, file_names[index])
            record |= {
                "id": len(images) + 1,
                "original_img_id": index + 1,
                "sentence_id": sentence_id,
                "dataset_name": DATASET_NAME,
                "caption": caption.text,
                "caption_type": caption.caption_type,
                "tokens_negative": [[0, len(caption.text)]],
                "tokens_positive_eval": [[list(span)] for span, named in caption.phrases if named],
            }
            if caption.relations:
                record["relations"] = [list(relation) for relation in caption.relations]
            images.append(record)
            for span, named in caption.phrases:
                for position in named:
                    box = scene.objects[position].bbox
                    annotations.append(
                        {
                            "id": len(annotations) + 1,
                            "image_id": record["id"],
                            "category_id": 1,
                            "bbox": list(box),
                            "area": box[2] * box[3],
                            "iscrowd": 0,
                            "tokens_positive": [list(span)],
                            "instance_id": first_instance + position,
                        }
                    )
        first_instance += len(scene.objects)
    return {
        "info": {"description": "Procedural scenes: phrase grounding"},
        "images": images,
        "categories": [{"id": 1, "name": "object", "supercategory": "object"}],
        "annotations": annotations,
    }


def _render_one(index: int, *, seed: int, split: str, image_folder: str, image_format: str, style: str) -> Scene:
    picture, scene = generate_scene(seed, split, index)
    picture = STYLES[style](picture)
    path = os.path.join(image_folder, _file_name(index, image_format))
    if image_format == "jpg":
        picture.save(path, quality=95, subsampling=0)
    else:
        picture.save(path, compress_level=3)
    return scene


def _file_name(index: int, image_format: str) -> str:
    return f"{index:06d}.{image_format}"


def _scenes(render: Callable[[int], Scene], count: int, workers: int) -> Iterator[Scene]:
    if workers <= 1:
        yield from map(render, range(count))
        return
    with multiprocessing.get_context("spawn").Pool(workers) as pool:
        yield from pool.imap(render, range(count), chunksize=max(1, min(16, count // workers)))


def write_dataset(
    out: str | Path,
    split: str,
    count: int,
    seed: int,
    *,
    workers: int = 1,
    image_format: str = "jpg",
    style: str = PLAIN,
    progress: Progress = lambda scenes: scenes,
) -> Path:
    """Writes ``count`` scenes to a new or empty folder ``out``, which appears only when it is complete.

    The folder holds ``images/``, ``instances.json``, ``grounding.json`` and, except for train,
    ``instances_pairs.json``. ``progress`` may wrap the iterator of finished scenes.

    ``style`` is how pictures are drawn, see ``scenes.styles``; their contents do not depend on it.

    Raises: ValueError for a bad count, format, style or split; FileExistsError if ``out`` is a file or a folder with
        content.
    """
    out = Path(out).absolute()
    if count < 1:
        raise ValueError(f"the number of scenes must be at least 1, not {count}")
    if image_format not in FORMATS:
        raise ValueError(f"unknown image format {image_format!r}: choose one of {', '.join(FORMATS)}")
    if style not in STYLES:
        raise ValueError(f"unknown style {style!r}: choose one of {', '.join(STYLES)}")
    if out.exists() and not (out.is_dir() and not any(out.iterdir())):
        raise FileExistsError(f"{out} exists and is not an empty folder: name another one or remove it first")
    with completed_folder(out) as folder:
        images = folder / "images"
        images.mkdir()
        render = partial(
            _render_one, seed=seed, split=split, image_folder=str(images), image_format=image_format, style=style
        )
        scenes = list(progress(_scenes(render, count, min(workers, count))))
        names = [_file_name(index, image_format) for index in range(count)]
        _write_json(folder / "instances.json", build_instances(scenes, names))
        _write_json(folder / "grounding.json", build_grounding(scenes, names))
        if split != "train":
            _write_json(folder / "instances_pairs.json", build_pair_instances(scenes, names))
    return out


def _write_json(path: Path, content: Json) -> None:
    path.write_text(json.dumps(content, separators=(",", ":")) + "\n")
