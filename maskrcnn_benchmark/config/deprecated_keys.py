"""Keys that published configurations may set and that change nothing. They are accepted, and reported once when set.

Kept so that every configuration and every dump of the original merges. `OUT_OF_SCOPE` lists whole groups that belong to
detectors this project does not build; shipped task files set some of their values, so they are accepted in silence.
"""

_UNUSED = "nothing reads it"
_AUGMENTATION = "the pipeline is resize, horizontal flip and normalise"
_PROMPT = "prompts are built by maskrcnn_benchmark.text"
_SEARCH = "architecture search is not part of this project"

DEPRECATED_KEYS: dict[str, str] = {
    "AUGMENT.USE_RA": _UNUSED,
    "AUGMENT.VERTICAL_FLIP_PROB_TRAIN": _AUGMENTATION,
    "AUGMENT.BRIGHTNESS": _AUGMENTATION,
    "AUGMENT.CONTRAST": _AUGMENTATION,
    "AUGMENT.SATURATION": _AUGMENTATION,
    "AUGMENT.HUE": _AUGMENTATION,
    "AUGMENT.CROP_PROB": _AUGMENTATION,
    "AUGMENT.CROP_MIN_IOUS": _AUGMENTATION,
    "AUGMENT.CROP_MIN_SIZE": _AUGMENTATION,
    "DATASETS.ADD_DET_PROMPT_ADVANCED": _PROMPT,
    "DATASETS.BOX_THRESHOLD": _UNUSED,
    "DATASETS.FULL_QUESTION_PROB": _PROMPT,
    "DATASETS.INFERENCE_CAPTION": _UNUSED,
    "DATASETS.LOCAL_DEBUG": _UNUSED,
    "DATASETS.NEG_QUESTION_PROB": _PROMPT,
    "DATASETS.POS_QUESTION_PROB": _PROMPT,
    "DATASETS.PREDEFINED_TEXT": "class names come from DATASETS.OVERRIDE_CATEGORY or the annotation file",
    "DATASETS.PROMPT_LIMIT_NEG": _PROMPT,
    "DATASETS.USE_COCO_FORMAT": _UNUSED,
    "DATASETS.USE_OD_AUG": _UNUSED,
    "MODEL.BACKBONE.EFFICIENT_DET_BIFPN_VERSION": _UNUSED,
    "MODEL.BACKBONE.FPN_LAYER": _UNUSED,
    "MODEL.BACKBONE.GROUP": _UNUSED,
    "MODEL.BACKBONE.LAYER_SEARCH": _SEARCH,
    "MODEL.BACKBONE.LAYER_SETUP": _SEARCH,
    "MODEL.BACKBONE.USE_DFCONV": _UNUSED,
    "MODEL.BACKBONE.USE_DYRELU": _UNUSED,
    "MODEL.BACKBONE.USE_EN": _UNUSED,
    "MODEL.BACKBONE.USE_GN": _UNUSED,
    "MODEL.BACKBONE.USE_SE": _UNUSED,
    "MODEL.CLIP.TOKENIZER": "the tokenizer is MODEL.LANGUAGE_BACKBONE.TOKENIZER_TYPE",
    "MODEL.DYHEAD.GROUPS": _UNUSED,
    "MODEL.DYHEAD.TOPK": "the assigner reads MODEL.ATSS.TOPK",
    "MODEL.EVO_NORM.EPSILON": _UNUSED,
    "MODEL.EVO_NORM.NUM_GROUPS": _UNUSED,
    "MODEL.FPN.USE_DYRELU": _UNUSED,
    "MODEL.LANGUAGE_BACKBONE.UNUSED_TOKEN": _UNUSED,
    "MODEL.MULTITASK": _UNUSED,
    "MODEL.PRETRAIN_NAME": _UNUSED,
    "MODEL.SPEC": _UNUSED,
    "SEARCH.CROSSOVER_NUM": _SEARCH,
    "SEARCH.MAX_EPOCH": _SEARCH,
    "SEARCH.MUTATION_NUM": _SEARCH,
    "SEARCH.MUTATION_PROB": _SEARCH,
    "SEARCH.POPULATION_NUM": _SEARCH,
    "SEARCH.SELECT_NUM": _SEARCH,
    "SOLVER.CLIP_GRADIENTS.NORM_TYPE": "gradients are clipped by their L2 norm",
    "SOLVER.DISABLE_OUTPUT_DISTRIBUTED": _UNUSED,
    "SOLVER.GRAD_CLIP": "use SOLVER.CLIP_GRADIENTS",
    "SOLVER.PROMPT_PROBING_LEVEL": _UNUSED,
    "TENSORBOARD_EXP": "event files are written to OUTPUT_DIR",
}

OUT_OF_SCOPE: dict[str, str] = {
    "MODEL.BIFPN": "EfficientDet",
    "MODEL.FCOS": "FCOS",
    "MODEL.RESNETS": "ResNet bodies",
    "MODEL.RETINANET": "RetinaNet",
    "MODEL.ROI_BOX_HEAD": "two-stage heads",
    "MODEL.ROI_HEADS": "two-stage heads",
    "MODEL.ROI_KEYPOINT_HEAD": "two-stage heads",
    "MODEL.ROI_MASK_HEAD": "two-stage heads",
}
