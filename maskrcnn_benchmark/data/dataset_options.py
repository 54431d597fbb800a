"""Which configuration keys become which arguments of a dataset."""

from typing import Any

from maskrcnn_benchmark.data.datasets.caption_packing import ForeignCaptions, PackSize
from maskrcnn_benchmark.data.grounding.od_to_grounding import AS_MANY_AS_ALLOWED
from maskrcnn_benchmark.text.queries import read_caption_prompt

COPY_KEYS = {
    "flickr30k_train": "FLICKR_COPY",
    "mixed_train": "MIXED_COPY",
    "mixed_train_no_coco": "MIXED_COPY",
    "COCO_odinw_train_8copy_dt_train": "COCO_COPY",
    "LVIS_odinw_train_8copy_dt_train": "LVIS_COPY",
    "object365_odinw_2copy_dt_train": "OBJECT365_COPY",
    "vg_odinw_clipped_8copy_dt_train": "VG_COPY",
    "vg_vgoi6_clipped_8copy_dt_train": "VG_COPY",
    "imagenetod_train_odinw_2copy_dt": "IN_COPY",
    "oi_train_odinw_dt": "OI_COPY",
}
"""Training sets whose number of copies has a key of its own; all others have GENERAL_COPY."""


def number_of_copies(cfg, name: str, is_train: bool) -> int:
    """How often a dataset is repeated, at least once; -1 in the configuration means once."""
    if is_train:
        copies = cfg.DATASETS[COPY_KEYS.get(name, "GENERAL_COPY")]
    else:
        copies = cfg.DATASETS.GENERAL_COPY_TEST
    if copies == -1:
        return 1
    if copies < 1:
        raise ValueError(f"dataset {name}: {copies} copies; give -1 or a positive number")
    return copies


def check_number_of_classes(cfg, name: str, dataset: Any) -> None:
    """Raises ValueError for categories that the class branch, where it is trained, has no column for.

    Nothing else depends on MODEL.DYHEAD.NUM_CLASSES: words are matched by tokens, and scores have the prompt's classes.
    """
    is_needed = cfg.MODEL.DYHEAD.FUSE_CONFIG.USE_CLASSIFICATION_LOSS and not cfg.DATASETS.CLASS_AGNOSTIC
    if not is_needed or not hasattr(dataset, "categories"):
        return
    labels = dataset.categories()
    columns = cfg.MODEL.DYHEAD.NUM_CLASSES - 1
    if labels and max(labels) > columns:
        raise ValueError(
            f"dataset {name} has {len(labels)} categories with labels up to {max(labels)}, but the classifier has "
            f"{columns}: set MODEL.DYHEAD.NUM_CLASSES (now {columns + 1}) to {max(labels) + 1}"
        )


def dataset_options(cfg, is_train: bool) -> dict[str, Any]:
    """Arguments for every dataset of a loader; each class reads those it knows."""
    data, mlm = cfg.DATASETS, cfg.MODEL.DYHEAD.FUSE_CONFIG
    options: dict[str, Any] = {
        "one_hot": data.ONE_HOT,
        "use_caption_prompt": data.USE_CAPTION_PROMPT,
        "caption_prompt": read_caption_prompt(data.CAPTION_PROMPT),
        "class_agnostic": data.CLASS_AGNOSTIC,
        "sample_ratio": data.SAMPLE_RATIO,
        "min_keypoints": cfg.DATALOADER.MIN_KPS_PER_IMS,
        "max_query_len": cfg.MODEL.LANGUAGE_BACKBONE.MAX_QUERY_LEN,
        "max_num_labels": cfg.TEST.MDETR_STYLE_AGGREGATE_CLASS_NUM,
        "return_masks": cfg.MODEL.MASK_ON,
        "return_tokens": True,
        "is_train": is_train,
        "remove_images_without_annotations": is_train,
        "use_difficult": not is_train,
        "inference_caption": data.INFERENCE_CAPTION,
    }
    if data.USE_OVERRIDE_CATEGORY and data.OVERRIDE_CATEGORY:
        options["override_category"] = data.OVERRIDE_CATEGORY
    if is_train:
        options |= {
            "ignore_crowd": not data.USE_CROWD,
            "max_box": data.MAX_BOX,
            "few_shot": data.FEW_SHOT,
            "few_shot_rule": data.FEW_SHOT_RULE,
            "shuffle_seed": data.SHUFFLE_SEED,
            "random_sample_negative": _positive_or(-1, data.RANDOM_SAMPLE_NEG),
            "negative_pool": data.NEG_POOL,
            "add_detection_prompt": data.ADD_DET_PROMPT,
            "disable_shuffle": data.DISABLE_SHUFFLE,
            "control_probabilities": _control_probabilities(data.CONTROL_PROB),
            "disable_clip_to_image": data.DISABLE_CLIP_TO_IMAGE,
            "no_minus_one_for_one_hot": data.NO_MINUS_ONE_FOR_ONE_HOT,
            "separation_tokens": data.SEPARATION_TOKENS,
            "no_mask_for_od": mlm.NO_MASK_FOR_OD,
            "no_mask_for_gold": mlm.NO_MASK_FOR_GOLD,
            "special_safeguard_for_coco_grounding": data.SPECIAL_SAFEGUARD_FOR_COCO_GROUNDING,
            "flip_caption_aware": cfg.AUGMENT.FLIP_CAPTION_AWARE,
            "foreign_captions": _foreign_captions(cfg) if data.NEGATIVES_FOR_GROUNDING else None,
        } | _caption_options(data, mlm)
    else:
        options["control_probabilities"] = AS_MANY_AS_ALLOWED  # nobody reads the captions of a test set
    return options


def _caption_options(data, mlm) -> dict[str, Any]:
    """Arguments of pseudo-labelled captions."""
    return {
        "caption_format_version": data.CAPTION_FORMAT_VERSION,
        "caption_min_box": _positive_or(1, data.CAPTION_MIN_BOX),
        "caption_conf": _positive_or(0.5, data.CAPTION_CONF),
        "caption_nms": data.CAPTION_NMS,
        "further_screen": data.FURTHER_SCREEN,
        "replace_clean_label": data.REPLACE_CLEAN_LABEL,
        "pack_random_caption_number": data.PACK_RANDOM_CAPTION_NUMBER,
        "random_pack_prob": _positive_or(-1.0, data.RANDOM_PACK_PROB),
        "no_random_pack_probability": data.NO_RANDOM_PACK_PROBABILITY,
        "safeguard_positive_caption": data.SAFEGUARD_POSITIVE_CAPTION,
        "sample_negative_for_grounding_data": data.SAMPLE_NEGATIVE_FOR_GROUNDING_DATA,
        "mlm_obj_for_only_positive": mlm.MLM_OBJ_FOR_ONLY_POSITIVE,
        "diver_box_for_vqa": data.DIVER_BOX_FOR_VQA,
    }


def _positive_or(default: float, value: float) -> float:
    """The value of a key that only counts where it is positive, else the default of the argument."""
    return value if value > 0 else default


def _foreign_captions(cfg) -> ForeignCaptions:
    """What DATASETS.NEGATIVES_FOR_GROUNDING gives to MDETR-style captions: the same as to pseudo-labelled ones."""
    options = _caption_options(cfg.DATASETS, cfg.MODEL.DYHEAD.FUSE_CONFIG)
    return ForeignCaptions(
        PackSize(
            options["pack_random_caption_number"],
            options["random_pack_prob"],
            options["no_random_pack_probability"],
        ),
        options["sample_negative_for_grounding_data"],
        keep_own=options["safeguard_positive_caption"],
        max_tokens=cfg.MODEL.LANGUAGE_BACKBONE.MAX_QUERY_LEN,
        score_own_only=options["mlm_obj_for_only_positive"],
    )


def _control_probabilities(values) -> tuple[float, ...]:
    """DATASETS.CONTROL_PROB: empty, or four probabilities that sum to at most 1 and of which the last is 0."""
    values = tuple(float(value) for value in values)
    if values and (len(values) != 4 or min(values) < 0 or sum(values) > 1 or values[3] != 0):
        raise ValueError(
            f"DATASETS.CONTROL_PROB={values}: give four probabilities that sum to at most 1, the last of them 0"
        )
    return values
