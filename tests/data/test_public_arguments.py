"""Arguments of the data classes that other projects call, in the order and with the defaults of the original."""

import inspect

import pytest
import torch
from data_files import write_coco_toy

from maskrcnn_benchmark.config import default_config
from maskrcnn_benchmark.data import collate_batch, datasets, samplers, transforms
from maskrcnn_benchmark.data.build import make_data_loader
from maskrcnn_benchmark.data.datasets import COCODataset

GROUNDING = "img_folder ann_file transforms return_masks return_tokens is_train tokenizer disable_clip_to_image"
ARGUMENTS = {
    make_data_loader: "cfg is_train is_distributed num_replicas rank start_iter",
    collate_batch.BatchCollator: "size_divisible",
    datasets.COCODataset: (
        "ann_file root remove_images_without_annotations transforms ignore_crowd max_box few_shot one_hot "
        "override_category"
    ),
    datasets.CocoGrounding: (
        "img_folder ann_file transforms return_masks return_tokens is_train tokenizer disable_shuffle "
        "add_detection_prompt one_hot disable_clip_to_image no_minus_one_for_one_hot separation_tokens few_shot "
        "no_mask_for_od override_category use_caption_prompt caption_prompt max_query_len "
        "special_safeguard_for_coco_grounding random_sample_negative"
    ),
    datasets.MixedDataset: (
        "img_folder_coco img_folder_vg ann_file transforms return_masks return_tokens tokenizer disable_clip_to_image "
        "no_mask_for_gold max_query_len"
    ),
    datasets.CocoDetectionTSV: (
        "name yaml_file transforms return_tokens tokenizer extra_fields random_sample_negative "
        "add_detection_prompt add_detection_prompt_advanced use_od_data_aug control_probabilities disable_shuffle "
        "prompt_engineer_version prompt_limit_negative positive_question_probability negative_question_probability "
        "full_question_probability disable_clip_to_image separation_tokens no_mask_for_od max_num_labels max_query_len"
    ),
    datasets.ODTSVDataset: "yaml_file extra_fields transforms is_load_label",
    datasets.LvisDetection: "img_folder ann_file transforms return_masks",
    datasets.PascalVOCDataset: "data_dir split use_difficult transforms",
    datasets.Background: "ann_file root",
    samplers.DistributedSampler: "dataset num_replicas rank shuffle use_random",
    samplers.GroupedBatchSampler: "sampler group_ids batch_size drop_uneven",
    samplers.IterationBasedBatchSampler: "batch_sampler num_iterations start_iter",
    transforms.build_transforms: "cfg is_train",
    transforms.Resize: "min_size max_size restrict",
    transforms.RandomHorizontalFlip: "prob",
    transforms.Normalize: "mean std format",
}
KEYWORDS = {
    datasets.CaptionTSV: (
        "caption_min_box replace_clean_label further_screen caption_conf caption_nms pack_random_caption_number "
        "inference_caption sample_negative_for_grounding_data random_pack_prob no_random_pack_probability "
        "safeguard_positive_caption mlm_obj_for_only_positive caption_format_version max_query_len return_masks "
        "return_tokens"
    ),
    datasets.PseudoData: "caption_min_box further_screen caption_conf caption_nms diver_box_for_vqa",
    datasets.COCODataset: "shuffle_seed",
}
DEFAULTS = {
    datasets.COCODataset: {"ignore_crowd": True, "max_box": -1, "few_shot": 0, "one_hot": False, "transforms": None},
    datasets.CocoGrounding: {"separation_tokens": " ", "max_query_len": 256, "random_sample_negative": -1},
    datasets.CocoDetectionTSV: {"prompt_engineer_version": "v2", "separation_tokens": " ", "max_num_labels": -1},
    datasets.ODTSVDataset: {"extra_fields": (), "transforms": None, "is_load_label": True},
    make_data_loader: {"is_train": True, "is_distributed": False, "start_iter": 0},
    datasets.PascalVOCDataset: {"use_difficult": False, "transforms": None},
}


@pytest.mark.parametrize("called", ARGUMENTS, ids=lambda called: called.__name__)
def test_arguments_by_position(called):
    names = ARGUMENTS[called].split()
    parameters = list(inspect.signature(called).parameters.values())
    positional = [one.name for one in parameters if one.kind is inspect.Parameter.POSITIONAL_OR_KEYWORD]
    assert positional[: len(names)] == names


@pytest.mark.parametrize("name", ["ModulatedDataset", "FlickrDataset", "RefExpDataset", "GQADataset"])
def test_arguments_of_captions_with_boxes(name):
    """The folder and the file, then those of the class below."""
    base = inspect.signature(datasets.ModulatedDataset.__base__).parameters
    names = f"{GROUNDING} no_mask_for_gold max_query_len".split()
    assert list(inspect.signature(getattr(datasets, name)).parameters)[:2] == names[:2]
    assert list(base)[: len(names) - 1] == names[1:]


@pytest.mark.parametrize("called", KEYWORDS, ids=lambda called: called.__name__)
def test_arguments_by_name(called):
    inspect.signature(called).bind_partial(**dict.fromkeys(KEYWORDS[called].split()))


@pytest.mark.parametrize("called", DEFAULTS, ids=lambda called: called.__name__)
def test_defaults(called):
    parameters = inspect.signature(called).parameters
    assert {name: parameters[name].default for name in DEFAULTS[called]} == DEFAULTS[called]


def test_types_of_an_item_and_of_a_batch(tmp_path):
    cfg = default_config()
    cfg.INPUT.MIN_SIZE_TEST, cfg.INPUT.MAX_SIZE_TEST = 64, 200
    data = COCODataset(str(write_coco_toy(tmp_path)), str(tmp_path), True, transforms.build_transforms(cfg, False))
    assert data.ids == [2, 5, 9] and data.id_to_img_map == {0: 2, 1: 5, 2: 9} and len(data) == 3
    assert data.json_category_id_to_contiguous_id == {7: 1, 3: 2, 11: 3}
    assert data.contiguous_category_id_to_json_id == {1: 7, 2: 3, 3: 11}
    image, target, index = data[1]
    assert image.dtype == torch.float32 and image.shape == (3, 64, 80) and target.size == (80, 64)
    assert (index, target.mode, target.bbox.dtype) == (1, "xyxy", torch.float32)
    assert target.get_field("labels").dtype == torch.int64
    assert data.get_img_info(1)["width"] == 100 and data.categories() == {1: "cat", 2: "dog", 3: "absent, thing"}
    batch = collate_batch.BatchCollator(32)([data[0], data[1]])
    assert isinstance(batch, tuple) and len(batch) == 6 and batch[2] == (0, 1) and batch[3:] == (None, None, None)
    assert batch[0].tensors.shape == (2, 3, 64, 96) and batch[0].image_sizes == [(64, 80), (64, 80)]
    assert isinstance(batch[1], tuple)
