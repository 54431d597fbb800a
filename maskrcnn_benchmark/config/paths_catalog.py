"""The catalogue: dataset name -> what kind of dataset it is and where its files lie.

Paths are relative to the roots of `maskrcnn_benchmark.config.try_to_find`; DATA.md says how to get the files. A user's
own datasets are registered under `DATASETS.REGISTER` in a configuration file:

    DATASETS:
      REGISTER:
        cats_train: {type: grounding, img_dir: cats/images, ann_file: cats/train.json}

An entry without `type` is given one by its name, by the rules of the original; a rule that a name may match by accident
is reported. The configuration key PATHS_CATALOG names another Python file with the two classes of this one. It is
executed, so it must be as trustworthy as the program itself.
"""

import difflib
import logging
import re
from collections.abc import Mapping
from typing import Any, NamedTuple

from maskrcnn_benchmark.config.path_search import try_to_find

logger = logging.getLogger(__name__)


class UnknownDatasetError(KeyError, ValueError):
    """A dataset name that the catalogue does not have."""

    __str__ = ValueError.__str__  # KeyError would show the message quoted


class DatasetType(NamedTuple):
    """How a kind of dataset is made from a catalogue entry.

    Attributes:
        factory: name of the class in `maskrcnn_benchmark.data.datasets`.
        paths: field of the entry -> argument of the class, for files and folders that must exist.
        options: the same for values that are passed on as they are, and may be missing.
    """

    factory: str
    paths: dict[str, str]
    options: dict[str, str] = {}


_CAPTIONED = {"img_dir": "img_folder", "ann_file": "ann_file"}
_IS_TRAIN = {"is_train": "is_train"}
_TSV = {"yaml_file": "yaml_file"}
_NAMED = {"dataset_file": "name"}

TYPES: dict[str, DatasetType] = {
    # boxes with category numbers
    "coco": DatasetType("COCODataset", {"img_dir": "root", "ann_file": "ann_file"}),
    "voc": DatasetType("PascalVOCDataset", {"data_dir": "data_dir"}, {"split": "split"}),
    "odtsv": DatasetType("ODTSVDataset", _TSV, _NAMED),
    "lvis": DatasetType("LvisDetection", _CAPTIONED),
    "background": DatasetType("Background", {"img_dir": "root", "ann_file": "ann_file"}),
    # boxes whose categories are written out as captions
    "grounding": DatasetType("CocoGrounding", _CAPTIONED),
    "dt": DatasetType("CocoDetectionTSV", _TSV, _NAMED),
    "dt_json": DatasetType("CocoDetectionJson", _CAPTIONED),
    # captions with boxes for their phrases
    "modulated": DatasetType("ModulatedDataset", _CAPTIONED, _IS_TRAIN),
    "flickr": DatasetType("FlickrDataset", _CAPTIONED, _IS_TRAIN),
    "refexp": DatasetType("RefExpDataset", _CAPTIONED, _IS_TRAIN),
    "gqa": DatasetType("GQADataset", _CAPTIONED, _IS_TRAIN),
    "phrasecut": DatasetType("PhrasecutDetection", _CAPTIONED, _IS_TRAIN),
    "mixed": DatasetType(
        "MixedDataset",
        {"coco_img_dir": "img_folder_coco", "vg_img_dir": "img_folder_vg", "ann_file": "ann_file"},
        _IS_TRAIN,
    ),
    # captions with boxes of a teacher
    "caption": DatasetType("CaptionTSV", _TSV),
    "pseudo_data": DatasetType("PseudoData", _TSV),
}

PASSED_OVER = frozenset(("is_train",))
"""Fields that entries written for the original have where their class does not read them."""

PLAIN_JSON: dict[str, str] = {"dt": "dt_json", "odtsv": "coco"}
"""Type read from TSV files -> type of an entry that names a COCO-style `ann_file` instead."""

ALIASES: dict[str, str] = {
    "root": "img_dir",
    "img_folder": "img_dir",
    "img_folder_coco": "coco_img_dir",
    "img_folder_vg": "vg_img_dir",
    "yaml_path": "yaml_file",
}
"""Other names that an entry's fields may have."""


def _entry(kind: str, img_dir: str, ann_file: str, **options: Any) -> dict[str, Any]:
    return {"type": kind, "img_dir": img_dir, "ann_file": ann_file, **options}


def _coco(pictures: str, annotations: str, kind: str = "coco") -> dict[str, Any]:
    return _entry(kind, f"coco/{pictures}".rstrip("/"), f"coco/annotations/{annotations}.json")


def _flickr(split: str) -> dict[str, Any]:
    annotations = f"mdetr_annotations/final_flickr_separateGT_{split}.json"
    return _entry("flickr", f"flickr30k/flickr30k_images/{split}", annotations, is_train=split == "train")


def _mixed(annotations: str) -> dict[str, Any]:
    return {
        "type": "mixed",
        "coco_img_dir": "coco/train2014",
        "vg_img_dir": "gqa/images",
        "ann_file": f"mdetr_annotations/{annotations}.json",
    }


def _tsv(kind: str, yaml_file: str) -> dict[str, Any]:
    return {"type": kind, "yaml_file": f"{yaml_file}.yaml"}


DATASETS: dict[str, dict[str, Any]] = {
    # COCO
    "coco_2014_train": _coco("train2014", "instances_train2014"),
    "coco_2014_val": _coco("val2014", "instances_val2014"),
    "coco_2014_minival": _coco("val2014", "instances_minival2014"),
    "coco_2017_train": _coco("train2017", "instances_train2017"),
    "coco_2017_val": _coco("val2017", "instances_val2017"),
    "coco_2017_test": _coco("test2017", "image_info_test-dev2017"),
    "coco_grounding_train": _coco("train2017", "instances_train2017", "grounding"),
    "coco_dt_train": _tsv("dt", "coco_tsv/coco_obj"),
    "COCO_odinw_train_8copy_dt_train": _tsv("dt", "coco_tsv/COCO_odinw_train_8copy"),
    "COCO_odinw_val_dt_train": _tsv("dt", "coco_tsv/COCO_odinw_val"),
    # LVIS, whose file names start with the folder of the pictures
    "lvis_grounding_train": _coco("", "lvis_od_train", "grounding"),
    "lvis_val": _coco("", "lvis_od_val"),
    "lvisv1_dt_train": _tsv("dt", "coco_tsv/LVIS_v1_train"),
    "LVIS_odinw_train_8copy_dt_train": _tsv("dt", "coco_tsv/LVIS_odinw_train_8copy"),
    # Objects365, OpenImages, ImageNet, Visual Genome
    "object365_dt_train": _tsv("dt", "Objects365/objects365_train_vgoiv6.cas2000"),
    "object365_odinw_2copy_dt_train": _tsv("dt", "Objects365/objects365_train_odinw.cas2000_2copy"),
    "objects365_odtsv_train": _tsv("odtsv", "Objects365/train.cas2000"),
    "objects365_odtsv_val": _tsv("odtsv", "Objects365/val"),
    "oi_train_odinw_dt": _tsv("dt", "openimages_v5c/oi_train_odinw.cas.2000"),
    "imagenetod_train_odinw_2copy_dt": _tsv("dt", "imagenet_od/imagenetod_train_odinw_2copy"),
    "vg_dt_train": _tsv("dt", "visualgenome/train_vgoi6_clipped"),
    "vg_odinw_clipped_8copy_dt_train": _tsv("dt", "visualgenome/train_odinw_clipped_8copy"),
    "vg_vgoi6_clipped_8copy_dt_train": _tsv("dt", "visualgenome/train_vgoi6_clipped_8copy"),
    # captions with boxes
    "mixed_train": _mixed("final_mixed_train"),
    "mixed_train_no_coco": _mixed("final_mixed_train_no_coco"),
    "flickr30k_train": _flickr("train"),
    "flickr30k_val": _flickr("val"),
    "flickr30k_test": _flickr("test"),
    "refexp_all_val": _entry("refexp", "refcoco/train2014", "mdetr_annotations/final_refexp_val.json"),
    "gqa_val": _entry("gqa", "gqa/images", "mdetr_annotations/final_gqa_val.json"),
    "phrasecut_train": _entry("phrasecut", "gqa/images", "mdetr_annotations/finetune_phrasecut_train.json"),
}


def _plain(kind: str, folder: str, split: str = "train") -> dict[str, Any]:
    return _entry(kind, f"{folder}/images", f"{folder}/annotations/instances_{split}.json")


ALTERNATIVES: dict[str, dict[str, Any]] = {
    "coco_dt_train": _coco("train2017", "instances_train2017", "dt_json"),
    "lvisv1_dt_train": _coco("", "lvis_v1_train", "dt_json"),
    "lvis_grounding_train": _coco("", "lvis_v1_train", "grounding"),
    "lvis_val": _coco("", "lvis_v1_val"),
    "object365_dt_train": _plain("dt_json", "Objects365"),
    "objects365_odtsv_train": _plain("coco", "Objects365"),
    "objects365_odtsv_val": _plain("coco", "Objects365", "val"),
    "oi_train_odinw_dt": _plain("dt_json", "openimages_v5c"),
    "imagenetod_train_odinw_2copy_dt": _plain("dt_json", "imagenet_od"),
    "vg_dt_train": _plain("dt_json", "visualgenome"),
}
"""What a built-in name stands for where the files of its entry are missing: COCO-style files in place of TSV files, and
the annotations of LVIS as they are published."""


NUMBERED_PART, NUMBERED_SET = "bing", "bing_caption_train"
"""A name with this word is a part of this set of captions. The set was never published; it can be registered with
`yaml_path`, the folder, and `yaml_name`, for files such as `<yaml_name>.0.yaml` (DATASETS.BING_INDEX_LIST)."""


class NameRule(NamedTuple):
    """Names that match `pattern` are of `type`. `is_documented`: the pattern is written on purpose, never by chance."""

    pattern: str
    type: str
    is_documented: bool = False


NAME_RULES: tuple[NameRule, ...] = (
    NameRule(r"_bg$", "background", True),
    NameRule("mixed", "mixed"),
    NameRule("flickr", "flickr"),
    NameRule("refexp", "refexp"),
    NameRule("gqa", "gqa"),
    NameRule("phrasecut", "phrasecut"),
    NameRule("_caption", "caption"),
    NameRule("inferencecap", "caption"),
    NameRule("pseudo_data", "pseudo_data"),
    NameRule("_dt", "dt"),
    NameRule("_odtsv", "odtsv"),
    NameRule(r"_grounding$", "grounding", True),  # DATASETS.TRAIN_DATASETNAME_SUFFIX
    NameRule("_grounding", "grounding"),
    NameRule("lvis_evaluation", "lvis", True),
)
"""Tried in this order for entries without a type; a name that matches none is of type coco."""


def type_from_name(name: str, entry: Mapping[str, Any]) -> str:
    """The type that an entry without one gets from its name."""
    if "voc" in name and "split" in entry:
        return "voc"
    for rule in NAME_RULES:
        if re.search(rule.pattern, name):
            if not rule.is_documented:
                logger.warning(
                    "dataset %r is read as %s because its name contains %r; give its entry a type to choose (%s)",
                    name, TYPES[rule.type].factory, rule.pattern, ", ".join(TYPES),
                )  # fmt: skip
            return rule.type
    return "coco"


class DatasetCatalog:
    """Looks datasets up by name."""

    DATASETS = DATASETS
    ALTERNATIVES = ALTERNATIVES

    @classmethod
    def set(cls, name: str, info: Mapping[str, Any]) -> None:
        """Adds or replaces an entry, such as `{"type": "coco", "img_dir": ..., "ann_file": ...}`."""
        cls.DATASETS[name] = dict(info)
        cls.ALTERNATIVES.pop(name, None)

    @classmethod
    def get(cls, name: str) -> dict[str, Any]:
        """Returns `{"factory": class name, "args": its arguments}` with paths that exist.

        Raises:
            UnknownDatasetError: no entry has this name; the text names the nearest.
            ValueError: the entry has an unknown type or field, or lacks one.
            FileNotFoundError: a file of the dataset is in no root.
        """
        entry = cls._find(name)
        try:
            return cls._resolve(name, entry)
        except FileNotFoundError as missing:
            if name not in cls.ALTERNATIVES:
                raise
            try:
                found = cls._resolve(name, dict(cls.ALTERNATIVES[name]))
            except FileNotFoundError as also_missing:
                raise FileNotFoundError(
                    f"dataset {name!r} is there neither as published nor as plain JSON. {missing} {also_missing}"
                ) from None
            logger.info("dataset %r is read from %s", name, found["args"]["ann_file"])
            return found

    @classmethod
    def _resolve(cls, name: str, entry: dict[str, Any]) -> dict[str, Any]:
        """The answer of `get` for an entry with the usual field names."""
        kind = entry.pop("type", None) or type_from_name(name, entry)
        if "ann_file" in entry and "yaml_file" not in entry:
            kind = PLAIN_JSON.get(kind, kind)
        if kind not in TYPES:
            raise ValueError(f"dataset {name!r} has type {kind!r}; known types are {', '.join(TYPES)}")
        factory, paths, options = TYPES[kind]
        unknown = sorted(set(entry) - set(paths) - set(options) - PASSED_OVER)
        if unknown:
            fields = ", ".join([*paths, *options])
            raise ValueError(f"dataset {name!r} of type {kind!r} has the unknown field {unknown[0]!r}; known: {fields}")
        missing = [field for field in paths if not entry.get(field)]
        if missing:
            raise ValueError(f"dataset {name!r} of type {kind!r} needs the field {missing[0]!r}")
        arguments = {argument: try_to_find(entry[field]) for field, argument in paths.items()}
        arguments |= {argument: entry[field] for field, argument in options.items() if field in entry}
        return {"factory": factory, "args": arguments}

    @classmethod
    def _find(cls, name: str) -> dict[str, Any]:
        """A copy of the entry, with the usual field names."""
        base = name.removesuffix("_grounding")
        if name in cls.DATASETS:
            entry = dict(cls.DATASETS[name])
        elif NUMBERED_PART in name.split("_") and NUMBERED_SET in cls.DATASETS:
            entry = dict(cls.DATASETS[NUMBERED_SET])
        elif base in cls.DATASETS and cls.DATASETS[base].get("type") == "coco":
            entry = {**cls.DATASETS[base], "type": "grounding"}  # a built-in dataset under the suffix
        else:
            close = difflib.get_close_matches(name, cls.DATASETS, n=1)
            hint = f"did you mean {close[0]!r}? " if close else ""
            raise UnknownDatasetError(f"unknown dataset {name!r}; {hint}DATASETS.REGISTER adds datasets of your own")
        entry = _with_yaml_file(name, entry)
        return {ALIASES.get(field, field): value for field, value in entry.items()}


def _with_yaml_file(name: str, entry: dict[str, Any]) -> dict[str, Any]:
    """An entry of numbered parts, with the file of one: `<yaml_path>/<yaml_name>.<part>.yaml`.

    The part is the third word of the name, as in bing_caption_0_train; names with no_coco have `yaml_name_no_coco`.
    """
    if "yaml_name" not in entry:
        return entry
    words = name.split("_")
    stem = entry.get("yaml_name_no_coco", "") if "no_coco" in name else entry["yaml_name"]
    if len(words) < 3 or not stem:
        raise ValueError(f"dataset {name!r}: no file of numbered parts; its name must be as in bing_caption_0_train")
    yaml_file = f"{entry.get('yaml_path', '.')}/{stem}.{words[2]}.yaml"
    rest = {key: value for key, value in entry.items() if key not in ("yaml_path", "yaml_name", "yaml_name_no_coco")}
    return rest | {"yaml_file": yaml_file}


class ModelCatalog:
    """Short names of published weights, for `catalog://NAME`."""

    MODELS: dict[str, str] = {
        "GLIP-T-A": "glip_a_tiny_o365",
        "GLIP-T-B": "glip_tiny_model_o365",
        "GLIP-T-C": "glip_tiny_model_o365_goldg",
        "GLIP-T": "glip_tiny_model_o365_goldg_cc_sbu",
        "GLIP-L": "glip_large_model",
        "Swin-T": "swin_tiny_patch4_window7_224",
        "Swin-L": "swin_large_patch4_window12_384_22k",
    }

    @classmethod
    def get(cls, name: str) -> str:
        """The name under which `maskrcnn_benchmark.utils.model_zoo` knows the weights."""
        if name not in cls.MODELS:
            raise ValueError(f"unknown weights catalog://{name}; known: {', '.join(cls.MODELS)}")
        return cls.MODELS[name]
