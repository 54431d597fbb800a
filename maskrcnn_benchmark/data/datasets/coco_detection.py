"""COCO-style detection data with more classes than a caption holds: Objects365, OpenImages, LVIS, Visual Genome."""

import os
from collections.abc import Sequence
from typing import Any

from maskrcnn_benchmark.data.datasets.coco_grounding import CocoGrounding
from maskrcnn_benchmark.data.grounding.od_to_grounding import SampledPrompt, needed_probabilities


class CocoDetectionJson(CocoGrounding):
    """Item i -> (image, BoxList with caption and token maps, i): CocoDetectionTSV for a plain JSON file.

    A caption names the classes of the picture and a sample of absent ones. Pictures without a usable box are left out.

    Args:
        img_folder, ann_file: the pictures, and their COCO-style annotations.
        random_sample_negative, control_probabilities, separation_tokens, add_detection_prompt, disable_shuffle,
            max_num_labels, max_query_len, negative_pool: see SampledPrompt.
        options: the others of CocoGrounding; a caption prompt, which needs all classes, is not used.
    Raises: ValueError without control probabilities, unless `disable_shuffle` leaves nothing to sample.
    """

    has_label_map = True

    def __init__(
        self,
        img_folder: str | os.PathLike[str],
        ann_file: str | os.PathLike[str],
        *,
        tokenizer=None,
        random_sample_negative: int = -1,
        control_probabilities: Sequence[float] = (),
        separation_tokens: str = " ",
        add_detection_prompt: bool = False,
        disable_shuffle: bool = False,
        max_num_labels: int = -1,
        max_query_len: int = 256,
        negative_pool: str = "legacy",
        **options: Any,
    ):
        control_probabilities = needed_probabilities(control_probabilities, disable_shuffle, os.fspath(ann_file))
        options["use_caption_prompt"] = False
        super().__init__(
            img_folder,
            ann_file,
            tokenizer=tokenizer,
            max_query_len=max_query_len,
            make_prompt=lambda names: SampledPrompt(
                names,
                tokenizer,
                random_sample_negative=random_sample_negative,
                negative_pool=negative_pool,
                control_probabilities=control_probabilities,
                separation=separation_tokens,
                add_detection_prompt=add_detection_prompt,
                disable_shuffle=disable_shuffle,
                max_num_labels=max_num_labels,
                max_tokens=max_query_len,
            ),
            **options,
        )
