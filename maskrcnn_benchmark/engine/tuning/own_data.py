"""From somebody's annotations to a whole configuration for fine-tuning, with the reasons for what was chosen."""

import json
import logging
import os
import random
from collections import Counter, defaultdict
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

from transformers import PreTrainedTokenizerBase

from maskrcnn_benchmark.config import CfgNode, default_config
from maskrcnn_benchmark.data.datasets.coco_json import has_valid_annotation, select_few_shot
from maskrcnn_benchmark.data.own_annotations import (
    Content,
    as_validation,
    checked_annotations,
    classes_without_boxes,
    without_crowds,
)
from maskrcnn_benchmark.engine.model_files import find_model
from maskrcnn_benchmark.engine.text_files import use_local_text_files
from maskrcnn_benchmark.engine.tuning.finetune import RESULT_FILE
from maskrcnn_benchmark.text.class_names import listed, shown
from maskrcnn_benchmark.text.tokenizer import build_tokenizer
from maskrcnn_benchmark.utils.checkpoint import TAG_FILE
from maskrcnn_benchmark.utils.complete_files import write_complete
from maskrcnn_benchmark.utils.messages import first_of, shortened

TRAIN_SET, VALIDATION_SET = "own_train", "own_val"
VALIDATION_SHARE, MAX_VALIDATION = 0.2, 500
EPOCHS, FEWEST, MOST = 20, 100, 5000
"""Iterations: so many times through the data, within limits."""
VALIDATIONS = 5
SAMPLED_NEGATIVES = 85  # absent classes in a prompt where not all fit, as in pre-training
LONGEST_NOTE = 200  # characters of a text among the choices
FAR_OFF = 8.0  # times the recipe's learning rate, or a fraction of it
FIXED_SETTINGS: dict[str, Any] = {
    "DATASETS.TRAIN": (TRAIN_SET,), "DATASETS.TEST": (VALIDATION_SET,),
    "DATASETS.TRAIN_DATASETNAME_SUFFIX": "", "DATASETS.TEST_DATASETNAME_SUFFIX": "",
    "DATASETS.GENERAL_COPY": -1, "DATASETS.FEW_SHOT_RULE": "images", "DATASETS.SEPARATION_TOKENS": ". ",
    "DATASETS.USE_CAPTION_PROMPT": False, "DATASETS.ADD_DET_PROMPT": False, "DATASETS.CLASS_AGNOSTIC": False,
    "DATASETS.USE_OVERRIDE_CATEGORY": False, "DATASETS.USE_SUPRESS_QUERY": False,
    "DATASETS.SPECIAL_SAFEGUARD_FOR_COCO_GROUNDING": False, "MODEL.DYHEAD.FUSE_CONFIG.MLM_LOSS": False,
    "SOLVER.OPTIMIZER": "ADAMW", "SOLVER.USE_COSINE": True, "SOLVER.USE_AUTOSTEP": False, "SOLVER.WARMUP_FACTOR": 0.01,
    "SOLVER.MAX_EPOCH": 0, "SOLVER.CHECKPOINT_PER_EPOCH": -1.0, "SOLVER.MODEL_EMA": 0.0, "SOLVER.CACHE_FEATURES": "",
    "SOLVER.FIND_UNUSED_PARAMETERS": False,
    "TEST.DURING_TRAINING": True, "TEST.CHUNKED_EVALUATION": -1, "TEST.EVAL_TASK": "detection",
}  # fmt: skip
"""The same for all data. Options for what the model was trained on before are set back: it may be a fine-tuned one."""

logger = logging.getLogger("maskrcnn_benchmark.finetune")


class Recipe(NamedTuple):
    """How a mode is trained with batches of RECIPE_BATCH pictures.

    Attributes:
        preset: of SOLVER.TUNING_HIGHLEVEL_OVERRIDE; rate: of learning; text_rate: of the text encoder;
        decay: of weights. Rates grow with the batch where `scales`.
    """

    preset: str
    rate: float
    text_rate: float
    decay: float
    scales: bool


RECIPE_BATCH = 4
RECIPES = {
    "full": Recipe("full", 1e-4, 1e-5, 0.05, True),
    "prompt": Recipe("language_prompt_v2", 0.05, 0.0, 0.25, False),
    "linear": Recipe("linear_prob", 1e-3, 0.0, 0.05, True),
}
"""Full and prompt tuning have GLIP's rates; a probe starts from trained layers and takes larger steps than GLIP's."""


@dataclass(frozen=True)
class OwnData:
    """What to fine-tune on, and how.

    Args:
        annotations, images: a COCO-format JSON and the folder of its pictures.
        validation, validation_images: the same for validation; None takes a part of the training data, or its folder.
        model: a name or a folder, see `find_model`. mode: a key of RECIPES. shots: pictures per class, 0 for all.
        output: folder for everything that is written. seed: of the choice of pictures and of training.
        iterations, rate, batch_size: None chooses by the data. cache_features: keep those of a frozen image encoder.
    """

    annotations: Path
    images: Path
    output: Path
    validation: Path | None = None
    validation_images: Path | None = None
    model: str = "glip_nano"
    mode: str = "full"
    shots: int = 0
    seed: int = 0
    device: str = "cpu"
    iterations: int | None = None
    rate: float | None = None
    batch_size: int | None = None
    cache_features: bool = False


class Plan(NamedTuple):
    """A configuration, the model's name, the names of the classes (label 1 first), and what was chosen and why."""

    cfg: CfgNode
    model: str
    classes: list[str]
    choices: dict[str, str]


def plan_own_data(own: OwnData) -> Plan:
    """Checks the annotations, sets validation data aside where there are none, and chooses all settings.

    Both parts are written to OUTPUT/data in the way that training reads them, see `own_annotations`.
    Raises: ValueError or OSError that names what cannot be used.
    """
    if own.validation is None and own.validation_images is not None:
        raise ValueError(
            f"--val-images '{own.validation_images}' without --val: pictures that are set aside are those of --images"
        )
    files = find_model(own.model)
    content = checked_annotations(own.annotations, own.images)
    choices: dict[str, str] = {}
    if own.validation is None:
        parts = split_annotations(content, own.seed)
        count = len(parts[1]["images"])
        choices["validation"] = f"{count} of {len(content['images'])} pictures, set aside"
    else:
        given = checked_annotations(own.validation, own.validation_images or own.images)
        parts = content, as_validation(given, content, own.validation)
        _warn_of_shared(own, *parts)
    train, validation = without_crowds(parts[0]), parts[1]
    unmeasured = classes_without_boxes(validation)
    if unmeasured:
        logger.warning("the validation data have no box of %s, which are not measured", listed(unmeasured))
    train_file, validation_file = _write_parts(own, train, validation)
    cfg = default_config()
    cfg.merge_from_file(files.config)
    use_local_text_files(cfg, files.config.parent)
    classes = [category["name"] for category in content["categories"]]
    pictures = _pictures_to_train_on(train, own)
    cfg.DATASETS.REGISTER = CfgNode(
        {
            TRAIN_SET: _entry("grounding", own.images, train_file),
            VALIDATION_SET: _entry("coco", own.validation_images or own.images, validation_file),
        },
        new_allowed=True,
    )
    settings = _settings(own, cfg, classes, pictures, choices)
    settings |= {"MODEL.WEIGHT": os.path.abspath(files.weights()), "MODEL.DEVICE": own.device}
    settings["OUTPUT_DIR"] = os.path.abspath(own.output)  # what is noted there holds from any working folder
    cfg.merge_from_list([part for pair in settings.items() for part in pair])
    return Plan(cfg, files.name, classes, choices)


def _warn_of_shared(own: OwnData, train: Content, validation: Content) -> None:
    """Tells of pictures that are in both: what is measured on them says little of other pictures."""
    folder = own.validation_images or own.images
    trained = {os.path.abspath(own.images / image["file_name"]) for image in train["images"]}
    names = [image["file_name"] for image in validation["images"]]
    shared = [name for name in names if os.path.abspath(folder / name) in trained]
    if shared:
        logger.warning(
            "%d of %d validation pictures are training pictures, too, which makes AP too good: %s",
            len(shared), len(names), first_of(shared),
        )  # fmt: skip


def _write_parts(own: OwnData, *parts: Content) -> tuple[Path, Path]:
    """Writes the training and the validation data; returns their files.

    Raises: ValueError where a run on other data has left something to go on from, and for checkpoints of anything else,
        which would be replaced or removed.
    """
    files = [own.output / "data" / f"{name}.json" for name in (TRAIN_SET, VALIDATION_SET)]
    foreign = [] if files[0].is_file() else sorted(path.name for path in own.output.glob("model_*.pth"))
    if foreign:
        raise ValueError(
            f"--output '{own.output}' has checkpoints of something else, which would be lost: {first_of(foreign)}; "
            "name another folder"
        )
    texts = [json.dumps(part) for part in parts]
    is_changed = [
        file.is_file() and file.read_text(encoding="utf-8") != text for file, text in zip(files, texts, strict=True)
    ]
    if any(is_changed) and any((own.output / name).is_file() for name in (TAG_FILE, RESULT_FILE)):
        raise ValueError(
            f"--output '{own.output}' has results for other annotations: name another folder, or remove this one"
        )
    for file, text in zip(files, texts, strict=True):
        write_complete(file, text)
    return files[0], files[1]


def split_annotations(content: Content, seed: int) -> tuple[Content, Content]:
    """Sets pictures aside for validation; returns what is left to train on, and those.

    A class never lies in the validation part alone. Raises: ValueError with fewer than two annotated pictures.
    """
    classes_of: dict[Any, set[Any]] = defaultdict(set)
    for annotation in content["annotations"]:
        if not annotation["iscrowd"]:
            classes_of[annotation["image_id"]].add(annotation["category_id"])
    annotated = [image["id"] for image in content["images"] if classes_of.get(image["id"])]
    if len(annotated) < 2:
        raise ValueError(f"{len(annotated)} annotated pictures are too few to set some aside: give --val")
    random.Random(f"validation {seed}").shuffle(annotated)
    count = min(max(1, round(VALIDATION_SHARE * len(annotated))), MAX_VALIDATION)
    left = Counter(category for image in annotated for category in classes_of[image])  # pictures to train on
    aside: set[Any] = set()
    for image in annotated:
        if len(aside) < count and all(left[category] > 1 for category in classes_of[image]):
            aside.add(image)
            left.subtract(classes_of[image])
    if not aside:
        raise ValueError("every picture shows a class that no other shows, so that none can be set aside: give --val")
    train, validation = (
        {
            **content,
            "images": [image for image in content["images"] if (image["id"] in aside) == is_aside],
            "annotations": [one for one in content["annotations"] if (one["image_id"] in aside) == is_aside],
        }
        for is_aside in (False, True)
    )
    return train, validation


class Pictures(NamedTuple):
    """How many pictures are trained on.

    Attributes:
        read: those that the training set has.
        counted: for the length of training. Of K pictures per class it is K for every class, as far as the data have so
            many: fewer pictures that show several classes are read more often.
    """

    read: int
    counted: int


def _pictures_to_train_on(train: Content, own: OwnData) -> Pictures:
    """The pictures that the training set reads of these annotations, see `CocoGrounding`.

    Raises: ValueError where there is none.
    """
    annotations: dict[Any, list[Any]] = defaultdict(list)
    for annotation in train["annotations"]:
        annotations[annotation["image_id"]].append(annotation)
    usable = [image for image in sorted(annotations) if has_valid_annotation(annotations[image])]
    if not usable:
        raise ValueError(f"'{own.annotations}': no picture to train on has a box of more than one pixel")
    if not own.shots:
        return Pictures(len(usable), len(usable))
    shown = {image: {annotation["category_id"] for annotation in annotations[image]} for image in usable}
    classes = [category["id"] for category in train["categories"]]
    chosen = select_few_shot(usable, shown, classes, own.shots, own.seed)
    return Pictures(len(chosen), min(len(usable), own.shots * len(classes)))


def _entry(kind: str, images: Path, annotations: Path) -> CfgNode:
    entry = {"type": kind, "img_dir": os.path.abspath(images), "ann_file": os.path.abspath(annotations)}
    return CfgNode(entry, new_allowed=True)


class Schedule(NamedTuple):
    """Pictures of a batch, iterations, those between two measurements, and the learning rates."""

    batch: int
    iterations: int
    period: int
    rate: float
    text_rate: float


def _schedule(own: OwnData, pictures: Pictures) -> Schedule:
    """What is asked for, or else what suits so many pictures. Raises: ValueError for a batch that they do not fill."""
    recipe = RECIPES[own.mode]
    batch = own.batch_size or min(2 if own.device == "cpu" else RECIPE_BATCH, pictures.read)
    if batch > pictures.read:
        raise ValueError(f"--batch-size {batch} is more than the {pictures.read} pictures to train on")
    iterations = own.iterations or min(max(EPOCHS * pictures.counted // batch, FEWEST), MOST)
    factor = batch / RECIPE_BATCH if recipe.scales else 1.0
    usual = recipe.rate * factor
    rate = own.rate or usual
    if not usual / FAR_OFF <= rate <= usual * FAR_OFF:
        logger.warning(
            "learning rate %g is far from %g, with which %s tuning usually works for batches of %d",
            rate, usual, own.mode, batch,
        )  # fmt: skip
    return Schedule(batch, iterations, max(iterations // VALIDATIONS, 1), rate, recipe.text_rate * factor)


def _settings(
    own: OwnData, cfg: CfgNode, classes: list[str], pictures: Pictures, choices: dict[str, str]
) -> dict[str, Any]:
    """Names and values of the configuration; adds to `choices` what a user may want to know."""
    recipe, is_gpu = RECIPES[own.mode], own.device != "cpu"
    batch, iterations, period, rate, text_rate = _schedule(own, pictures)
    few = f", {own.shots} of each class (seed {own.seed})" if own.shots else ""
    choices |= {
        "classes": f"{len(classes)}: {shortened(', '.join(classes), LONGEST_NOTE)}",
        "pictures": f"{pictures.read} to train on{few}",
        "what is trained": f"{own.mode} ({recipe.preset})",
        "iterations": f"{iterations} with {batch} pictures, measured {-(-iterations // period)} times",
        "learning rate": f"{rate:g}" + (f", of the text encoder {text_rate:g}" if text_rate else ""),
        "weight decay": f"{recipe.decay:g}",
        "NUM_CLASSES": f"{len(classes) + 1}, with the background",
    }  # fmt: skip
    settings: dict[str, Any] = FIXED_SETTINGS | {
        "DATASETS.FEW_SHOT": own.shots, "DATASETS.SHUFFLE_SEED": own.seed,
        "MODEL.DYHEAD.NUM_CLASSES": len(classes) + 1,
        "DATALOADER.ASPECT_RATIO_GROUPING": pictures.counted > 200, "DATALOADER.NUM_WORKERS": 4 if is_gpu else 0,
        "SOLVER.TUNING_HIGHLEVEL_OVERRIDE": recipe.preset, "SOLVER.IMS_PER_BATCH": batch, "SOLVER.SEED": own.seed,
        "SOLVER.BASE_LR": rate, "SOLVER.LANG_LR": text_rate, "SOLVER.WEIGHT_DECAY": recipe.decay,
        "SOLVER.MIN_LR": rate / 100, "SOLVER.WARMUP_ITERS": iterations // 10, "SOLVER.MAX_ITER": iterations,
        "SOLVER.CHECKPOINT_PERIOD": period, "SOLVER.USE_AMP": is_gpu, "TEST.IMS_PER_BATCH": 4 if is_gpu else 1,
    }  # fmt: skip
    if own.cache_features:
        size = cfg.INPUT.MIN_SIZE_TEST
        settings |= {
            "SOLVER.CACHE_FEATURES": os.path.abspath(own.output / "features"), "AUGMENT.FLIP_PROB_TRAIN": 0.0,
            "AUGMENT.MULT_MIN_SIZE_TRAIN": (), "INPUT.MIN_SIZE_TRAIN": size, "AUGMENT.EXTENDED": False,
        }  # fmt: skip
        choices["augmentation"] = f"none, shorter side {size}, so that features of pictures can be kept"
    return settings | _prompt_settings(own, cfg, classes, choices)


def _prompt_settings(own: OwnData, cfg: CfgNode, classes: list[str], choices: dict[str, str]) -> dict[str, Any]:
    """All classes in the order of their labels where they fit into one prompt, else a sample for each picture."""
    language = cfg.MODEL.LANGUAGE_BACKBONE
    tokenizer, limit = build_tokenizer(language.TOKENIZER_TYPE), language.MAX_QUERY_LEN
    for name in classes:
        tokens = _num_tokens(name, tokenizer)
        if tokens > limit:
            raise ValueError(
                f"'{own.annotations}': the class name {shown(name)} takes {tokens} tokens, of which a prompt holds "
                f"{limit}: shorten it"
            )
    caption = ". ".join(classes)
    tokens = _num_tokens(caption, tokenizer)
    if tokens <= limit:
        choices["prompt"] = shortened(caption, LONGEST_NOTE)
        return {"DATASETS.DISABLE_SHUFFLE": True, "DATASETS.RANDOM_SAMPLE_NEG": -1}
    if own.mode == "prompt":
        raise ValueError(
            f"the names of {len(classes)} classes take {tokens} tokens, of which a prompt holds "
            f"{limit}: a learnt prompt belongs to one text; use --mode linear or full"
        )
    choices["prompt"] = (
        f"{tokens} tokens are too many: the classes of a picture and up to {SAMPLED_NEGATIVES} others, as far as they "
        f"fit into {limit}"
    )
    return {
        "DATASETS.DISABLE_SHUFFLE": False,
        "DATASETS.RANDOM_SAMPLE_NEG": SAMPLED_NEGATIVES,
        "DATASETS.SPECIAL_SAFEGUARD_FOR_COCO_GROUNDING": True,
        "DATASETS.NEG_POOL": "clean",
    }


def _num_tokens(text: str, tokenizer: PreTrainedTokenizerBase) -> int:
    return len(tokenizer(text, verbose=False)["input_ids"])
