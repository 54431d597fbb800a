"""Keys of this project that the original does not have, in one table. Add a key by adding a row.

Each default keeps the original's behaviour, so published configurations mean what they meant.
"""

from typing import Any, NamedTuple


class AddedKey(NamedTuple):
    """A configuration key of our own: its dotted name, its default and what it does."""

    name: str
    default: Any
    meaning: str


ADDED_KEYS: tuple[AddedKey, ...] = (
    AddedKey(
        "AUGMENT.EXTENDED",
        False,
        "Use the keys for crops, vertical flips and colours in training; the original defines them and ignores them.",
    ),
    AddedKey(
        "AUGMENT.FLIP_CAPTION_AWARE",
        False,
        "Exchange the words left and right in the captions of grounding data when a picture is mirrored in training.",
    ),
    AddedKey(
        "DATALOADER.ON_ERROR",
        "raise",
        'What a missing or broken picture does in training: "raise" stops the run; "skip" reports the file once and '
        "takes the next picture.",
    ),
    AddedKey(
        "DATASETS.FEW_SHOT_RULE",
        "images",
        'What DATASETS.FEW_SHOT counts per category: "images" that show it, as the original, or "instances", its '
        "boxes. All boxes of a chosen picture are used.",
    ),
    AddedKey(
        "DATASETS.NEG_POOL",
        "legacy",
        'What absent classes in captions of detection data are drawn from: "legacy" (all classes, as the original), '
        '"clean" (without those of the picture and the background) or "verified" (neg_category_ids of LVIS).',
    ),
    AddedKey(
        "DATASETS.NEGATIVES_FOR_GROUNDING",
        False,
        "Give captions of other pictures to MDETR-style data, too, by PACK_RANDOM_CAPTION_NUMBER and "
        "SAMPLE_NEGATIVE_FOR_GROUNDING_DATA, which the original reads for pseudo-labelled captions only.",
    ),
    AddedKey(
        "DATASETS.FLICKR_ENTITIES",
        "flickr30k/flickr30k",
        "Folder of Flickr30k Entities below a data root: the sentences and boxes against which recall is measured.",
    ),
    AddedKey(
        "GLIPKNOW.ORIGINAL_CAPTIONS",
        False,
        "Make the captions that the original makes in effect: bare class names unless WIKI_AND_GPT3, and with it for "
        "classes that lack either part, and no blank between the parts.",
    ),
    AddedKey(
        "MODEL.DYHEAD.FUSE_CONFIG.FUSE_EMBED_DIM",
        2048,
        "Width of the bi-attention's inner space, all heads together; the published models have 2048.",
    ),
    AddedKey(
        "MODEL.DYHEAD.FUSE_CONFIG.FUSE_NUM_HEADS",
        8,
        "Number of heads of the bi-attention; divides FUSE_EMBED_DIM.",
    ),
    AddedKey(
        "MODEL.DYHEAD.FUSE_CONFIG.NO_OBJECT_ON_LAST_TOKEN",
        True,
        "Unmatched anchors get the last token column as target, as the published models were trained; False gives them "
        "none. Only a caption that fills all columns sees the difference.",
    ),
    AddedKey(
        "MODEL.LANGUAGE_BACKBONE.TRIM_PADDING",
        True,
        "At inference, cut the text to the longest prompt of the batch where the result is the same; False always "
        "computes MAX_QUERY_LEN tokens.",
    ),
    AddedKey(
        "SOLVER.AMP_DTYPE",
        "float16",
        'Number format of mixed precision under SOLVER.USE_AMP: "float16" (with loss scaling) or "bfloat16".',
    ),
    AddedKey(
        "SOLVER.CACHE_FEATURES",
        "",
        "Folder in which the features of training pictures are kept, so that a frozen image encoder makes them once. "
        "Without augmentation only; 11 MB for a picture of 800x1344 in half precision.",
    ),
    AddedKey(
        "SOLVER.COSINE_EXACT_END",
        False,
        "Let the cosine of SOLVER.USE_COSINE end at MIN_LR; the original's ends above it, as the warm-up delays it.",
    ),
    AddedKey(
        "SOLVER.CUDA_GRAPHS",
        False,
        "On a GPU, record forward and backward pass of a batch whose shape comes again and replay it with one launch "
        "each. Without activation checkpointing; worth its memory where batches are small and of few shapes.",
    ),
    AddedKey(
        "SOLVER.FSDP",
        False,
        "With several processes, each keeps a part of the weights, gradients and optimizer states (fully_shard of "
        "PyTorch), for models that fill a GPU; checkpoints are whole all the same.",
    ),
    AddedKey(
        "SOLVER.GRADIENT_ACCUMULATION",
        1,
        "Parts in which a process computes its share of a batch: the step is that of the batch, the memory that of a "
        "part. SOLVER.IMS_PER_BATCH counts whole batches.",
    ),
    AddedKey(
        "SOLVER.MAX_BAD_LOSSES",
        0,
        "Iterations that may be skipped, on all processes together, because a loss is not finite; the next one stops "
        "the run, with the losses, the pictures and a file of the batch.",
    ),
    AddedKey(
        "TEST.REPORT",
        True,
        "Write report.html with the results of an evaluation; it takes some seconds per thousand pictures.",
    ),
)
