"""The evaluation commands of the notes, run as written but for paths, sizes, the device and the number of processes.

A line that the notes end without a backslash in mid-command is continued.
"""

import csv
import json
import shlex

import pytest
from evaluation_data import write_coco, write_flickr, write_lvis
from published_command import Setting, free_port
from tiny_detector import REPOSITORY

from maskrcnn_benchmark.cli.tools import run_evaluation

COCO = """
    tools/test_grounding_net.py --config-file configs/pretrain/glip_A_Swin_T_O365.yaml --weight {weight}
    TEST.IMS_PER_BATCH 1
    MODEL.DYHEAD.SCORE_AGG "MEAN"
    TEST.EVAL_TASK detection
    MODEL.DYHEAD.FUSE_CONFIG.MLM_LOSS False
    OUTPUT_DIR output
"""
ALIAS = (
    "tools/grounding_net_test.py --config-file configs/pretrain/glip_A_Swin_T_O365.yaml --weight {weight} OUTPUT_DIR aa"
)
FROM_BELOW = """
    ../tools/grounding_net_test.py --config-file ../configs/pretrain/glip_Swin_T_O365.yaml --weight {weight}
    OUTPUT_DIR aa
"""
SEVERAL = """
    -m torch.distributed.launch --nproc_per_node {processes} --master_port={port}
    tools/grounding_net_test.py --config-file configs/pretrain/glip_A_Swin_T_O365.yaml --weight {weight}
    TEST.IMS_PER_BATCH 8
    TEST.EVAL_TASK detection
    OUTPUT_DIR aa
"""
LVIS = """
    tools/test_grounding_net.py
    --config-file ./configs/pretrain/glip_Swin_T_O365_GoldG.yaml
    --task_config ./configs/lvis/minival.yaml
    --weight {weight}
    TEST.EVAL_TASK detection OUTPUT_DIR ./output3
    TEST.CHUNKED_EVALUATION 40  TEST.IMS_PER_BATCH 4 SOLVER.IMS_PER_BATCH 4
    TEST.MDETR_STYLE_AGGREGATE_CLASS_NUM 3000 MODEL.RETINANET.DETECTIONS_PER_IMG 300
    MODEL.FCOS.DETECTIONS_PER_IMG 300 MODEL.ATSS.DETECTIONS_PER_IMG 300 MODEL.ROI_HEADS.DETECTIONS_PER_IMG 300
"""
COCO_2017 = """
    tools/test_grounding_net.py --config-file ./configs/pretrain/glip_Swin_T_O365_GoldG.yaml --weight {weight}
    TEST.IMS_PER_BATCH 4
    MODEL.DYHEAD.SCORE_AGG "MEAN"
    TEST.EVAL_TASK detection
    MODEL.DYHEAD.FUSE_CONFIG.MLM_LOSS False
    OUTPUT_DIR ./output3
"""
COCO_TASK = """
    tools/test_grounding_net.py
    --config-file configs/pretrain/glip_Swin_T_O365_GoldG.yaml
    --task_config configs/coco/val.yaml
    --weight {weight}
    TEST.IMS_PER_BATCH 1
    MODEL.DYHEAD.SCORE_AGG "MEAN"
    TEST.EVAL_TASK detection
    MODEL.DYHEAD.FUSE_CONFIG.MLM_LOSS False
    OUTPUT_DIR output
"""
SMALL = ("INPUT.MIN_SIZE_TEST", 64, "MODEL.ATSS.INFERENCE_TH", 0.0, "MODEL.ATSS.PRE_NMS_TOP_N", 100)


def setting(folder, base: str = "glip_A_Swin_T_O365", weight: str = "glip_a_tiny_o365.pth") -> Setting:
    return Setting(folder, base, weight, SMALL)


def run_here(command: str, place: Setting, monkeypatch) -> None:
    """Runs the command in this process."""
    monkeypatch.setenv("DATASET", str(place.folder))
    monkeypatch.chdir(REPOSITORY)
    words = shlex.split(command.format(weight=place.weight))[1:]
    assert run_evaluation(None, words + place.sizes) == 0


def results(place: Setting, test_set: str):
    folder = place.folder / "out/eval" / place.weight.stem
    assert (folder / "log.txt").is_file()
    return folder / "inference" / test_set


@pytest.mark.parametrize(
    ("command", "base", "test_set"),
    [
        (COCO, "glip_A_Swin_T_O365", "coco_2017_val"),
        (ALIAS, "glip_A_Swin_T_O365", "coco_2017_val"),
        (COCO_2017, "glip_Swin_T_O365_GoldG", "coco_2017_val"),
        (COCO_TASK, "glip_Swin_T_O365_GoldG", "coco_val"),
    ],
    ids=["row5", "row6", "row35", "row65"],
)
def test_coco(tmp_path, monkeypatch, command, base, test_set):
    """Seed rows 5 (and 7, which leaves two entries out), 6, 35 and 65."""
    write_coco(tmp_path)
    place = setting(tmp_path, base)
    run_here(command, place, monkeypatch)
    folder = results(place, test_set)
    found = json.loads((folder / "bbox.json").read_text())
    assert {row["image_id"] for row in found} == {2, 5, 9} and {row["category_id"] for row in found} <= {3, 7, 11}
    assert (folder / "predictions.pth").is_file() and (folder / "bbox.csv").is_file()


def test_lvis(tmp_path, monkeypatch):
    """Seed row 31: the batch of four pictures is evaluated whole."""
    write_lvis(tmp_path)
    place = setting(tmp_path, "glip_Swin_T_O365_GoldG")
    run_here(LVIS, place, monkeypatch)
    with (results(place, "lvis_evaluation_mini_val") / "bbox.csv").open() as file:
        assert next(csv.reader(file))[0].strip() == "metric"
    log = (place.folder / "out/eval/glip_a_tiny_o365/log.txt").read_text()
    assert "aerosol can. armor. bird. bagel. cat . dog" in log


@pytest.mark.slow
def test_several_processes(tmp_path):
    """Seed rows 8 and 32."""
    write_coco(tmp_path)
    write_lvis(tmp_path)
    place = setting(tmp_path)
    place.run_program(SEVERAL, processes=2, port=free_port())
    assert len(json.loads((results(place, "coco_2017_val") / "bbox.json").read_text())) > 0
    command = "-m torch.distributed.launch --nproc_per_node=2 --master_port={port} " + LVIS.lstrip()
    place = setting(tmp_path, "glip_Swin_T_O365_GoldG")
    place.run_program(command, port=free_port())
    assert (results(place, "lvis_evaluation_mini_val") / "bbox.csv").is_file()


@pytest.mark.slow
def test_from_another_directory(tmp_path):
    """Seed row 6: a working directory below the repository's root."""
    write_coco(tmp_path)
    place = setting(tmp_path, "glip_Swin_T_O365")
    place.run_program(FROM_BELOW, cwd=REPOSITORY / "tools")
    assert (results(place, "coco_2017_val") / "bbox.json").is_file()


@pytest.mark.parametrize("with_entities", [True, False])
def test_flickr(tmp_path, monkeypatch, with_entities):
    write_flickr(tmp_path, with_entities=with_entities)
    command = """tools/test_grounding_net.py --config-file configs/pretrain/glip_Swin_T_O365_GoldG.yaml
        --task_config configs/flickr/test.yaml,configs/flickr/val.yaml --weight {weight}
        TEST.IMS_PER_BATCH 1 TEST.EVAL_TASK grounding TEST.MDETR_STYLE_AGGREGATE_CLASS_NUM 100"""
    place = setting(tmp_path, "glip_Swin_T_O365_GoldG")
    run_here(command.replace(",configs/flickr/val.yaml", ""), place, monkeypatch)
    figures = json.loads((results(place, "flickr30k_test") / "metrics.json").read_text())
    assert {"Recall@1_all", "Recall@5_all", "Recall@10_all", "Upper_bound_all"} <= set(figures)
    assert ("Recall@1_animals" in figures) == with_entities
