"""Every name that other projects import from this package, at the path they import it from.

A module that moves leaves a re-export behind; a row is removed only together with the decision to break those users.
"""

import importlib
import os
import subprocess
import sys

import pytest

# module under maskrcnn_benchmark -> names, separated by blanks
IMPORT_PATHS = {
    "config": "cfg try_to_find",
    "config.paths_catalog": "DatasetCatalog ModelCatalog",
    "data": "make_data_loader",
    "data.build": "make_data_loader",
    "data.collate_batch": "BBoxAugCollator BatchCollator",
    "data.datasets": (
        "Background COCODataset CaptionTSV CocoDetectionTSV CocoGrounding ConcatDataset ConvertCocoPolysToMask "
        "FlickrDataset GQADataset LvisDetection MixedDataset ModulatedDataset ODTSVDataset Object365DetectionTSV "
        "PascalVOCDataset PhrasecutDetection PseudoData RefExpDataset VGDetectionTSV"
    ),
    "data.datasets.evaluation": "evaluate",
    "data.datasets.evaluation.coco.coco_eval": "COCOResults check_expected_results",
    "data.datasets.evaluation.flickr.flickr_eval": "FlickrEvaluator",
    "data.datasets.evaluation.lvis.lvis": "LVIS",
    "data.datasets.evaluation.lvis.lvis_eval": "LvisEvaluatorFixedAP",
    "data.datasets.evaluation.voc.voc_eval": "eval_detection_voc",
    "data.samplers": (
        "DistributedSampler DistributedSamplerChunkByNode GroupedBatchSampler IterationBasedBatchSampler"
    ),
    "data.transforms": "Compose Normalize RandomHorizontalFlip Resize ToTensor build_transforms",
    "engine.bbox_aug": "im_detect_bbox_aug",
    "engine.inference": (
        "clean_name create_positive_dict create_queries_and_maps create_queries_and_maps_from_dataset inference"
    ),
    "engine.predictor": "COCODemo",
    "engine.predictor_glip": (
        "GLIPDemo create_positive_map create_positive_map_label_to_token_from_positive_map find_noun_phrases "
        "remove_punctuation to_image_list"
    ),
    "engine.trainer": "do_train reduce_loss_dict",
    "layers": (
        "DFConv2d DYReLU DeformConv DropBlock2D FrozenBatchNorm2d IOULoss ModulatedDeformConv NaiveSyncBatchNorm2d "
        "ROIAlign ROIAlignV2 ROIPool Scale SigmoidFocalLoss TokenSigmoidFocalLoss ml_nms nms soft_nms"
    ),
    "modeling.backbone": "build_backbone",
    "modeling.box_coder": "BoxCoder",
    "modeling.detector": "build_detection_model disable_stochasticity",
    "modeling.language_backbone": "build_language_backbone build_tokenizer",
    "modeling.registry": "BACKBONES LANGUAGE_BACKBONES",
    "modeling.rpn": "build_rpn",
    "modeling.rpn.anchor_generator": "make_anchor_generator make_anchor_generator_complex",
    "modeling.rpn.inference": (
        "ATSSPostProcessor convert_grounding_to_od_logits convert_grounding_to_od_logits_v2 make_atss_postprocessor"
    ),
    "modeling.rpn.loss": "ATSSLossComputation make_atss_loss_evaluator",
    "modeling.rpn.vldyhead": "BertEncoderLayer BoxCoder Conv3x3Norm DyConv VLDyHead VLDyHeadModule VLFuse",
    "solver": ("WarmupCosineAnnealingLR WarmupMultiStepLR WarmupReduceLROnPlateau make_lr_scheduler make_optimizer"),
    "structures.bounding_box": "BoxList",
    "structures.boxlist_ops": "boxlist_iou boxlist_ml_nms boxlist_nms cat_boxlist remove_small_boxes",
    "structures.image_list": "ImageList to_image_list",
    "utils.amp": "GradScaler autocast custom_bwd custom_fwd",
    "utils.checkpoint": "Checkpointer DetectronCheckpointer",
    "utils.collect_env": "collect_env_info",
    "utils.comm": (
        "all_gather broadcast_data get_rank get_world_size is_main_process reduce_dict reduce_sum shared_random_seed "
        "synchronize"
    ),
    "utils.cv2_util": "findContours",
    "utils.dist": (
        "all_gather get_local_rank get_local_size get_rank get_world_size init_distributed_mode "
        "is_dist_avail_and_initialized is_main_process reduce_dict save_on_master setup_for_distributed"
    ),
    "utils.ema": "ModelEma",
    "utils.env": "setup_environment",
    "utils.fuse_helper": (
        "AttentionT2I BertLMPredictionHead BiAttentionBlock BiAttentionBlockForCheckpoint BiMultiHeadAttention "
        "FeatureResizer MultiHeadAttention"
    ),
    "utils.imports": "import_file",
    "utils.logger": "setup_logger",
    "utils.mdetr_dist": (
        "all_gather get_local_rank get_local_size get_rank get_world_size init_distributed_mode "
        "is_dist_avail_and_initialized is_main_process reduce_dict save_on_master setup_for_distributed"
    ),
    "utils.metric_logger": "AverageMeter MetricLogger SmoothedValue TensorboardLogger",
    "utils.miscellaneous": "mkdir save_config",
    "utils.model_serialization": "align_and_update_state_dicts load_state_dict strip_prefix_if_present",
    "utils.model_zoo": "cache_url",
    "utils.registry": "Registry",
    "utils.stats": "get_model_complexity_info",
}


@pytest.mark.parametrize("module", IMPORT_PATHS)
def test_names_are_importable(module):
    imported = importlib.import_module(f"maskrcnn_benchmark.{module}")
    missing = [name for name in IMPORT_PATHS[module].split() if not hasattr(imported, name)]
    assert not missing, f"maskrcnn_benchmark.{module} lacks {', '.join(missing)}"


def test_catalogs_keep_their_methods():
    from maskrcnn_benchmark.config.paths_catalog import DatasetCatalog, ModelCatalog

    assert callable(DatasetCatalog.get) and callable(DatasetCatalog.set) and callable(ModelCatalog.get)


@pytest.mark.parametrize("module", ["utils.checkpoint", "modeling.detector", "engine.predictor_glip"])
def test_modules_import_on_their_own(module):
    """Import order must not matter: each of these is somebody's first import."""
    command = [sys.executable, "-c", f"import maskrcnn_benchmark.{module}"]
    finished = subprocess.run(command, capture_output=True, text=True, timeout=600)
    assert finished.returncode == 0, finished.stderr


@pytest.mark.parametrize("given", [None, "ACTIVE"])
def test_waiting_threads_do_not_spin_unless_asked_to(given):
    environment = {name: value for name, value in os.environ.items() if name != "OMP_WAIT_POLICY"}
    environment |= {"OMP_WAIT_POLICY": given} if given else {}
    code = "import maskrcnn_benchmark, os; print(os.environ['OMP_WAIT_POLICY'])"
    finished = subprocess.run(
        [sys.executable, "-c", code], env=environment, capture_output=True, text=True, timeout=600
    )
    assert finished.stdout.strip() == (given or "PASSIVE"), finished.stderr
