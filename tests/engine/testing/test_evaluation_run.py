"""Whole evaluations on small data: tasks, resuming, and mistakes of the user."""

import json
import re
import shutil
from collections import Counter
from contextlib import closing
from pathlib import Path

import pytest
import torch
from evaluation_data import write_coco, write_flickr, write_lvis
from published_command import Setting
from tiny_detector import REPOSITORY
from toy_run import load_tool

from maskrcnn_benchmark.cli.console import BAD_INPUT, report_errors
from maskrcnn_benchmark.cli.main import main as glip
from maskrcnn_benchmark.cli.tools import run_evaluation
from maskrcnn_benchmark.config import default_config
from maskrcnn_benchmark.engine import inference as inference_module
from maskrcnn_benchmark.engine.testing import evaluation_run
from maskrcnn_benchmark.engine.testing.evaluation_run import named_files, task_configurations
from maskrcnn_benchmark.engine.testing.prediction_store import PATTERN, PredictionStore
from maskrcnn_benchmark.evaluation.odinw import ODINW_13, find_runs, task_files
from maskrcnn_benchmark.modeling.detector import build_detection_model

BASE = "glip_Swin_T_O365_GoldG"
SMALL = (
    *("INPUT.MIN_SIZE_TEST", 64, "MODEL.ATSS.INFERENCE_TH", 0.0, "MODEL.ATSS.PRE_NMS_TOP_N", 50),
    *("TEST.IMS_PER_BATCH", 1, "DATALOADER.ASPECT_RATIO_GROUPING", False),
)


@pytest.fixture
def place(tmp_path, monkeypatch) -> Setting:
    """A data root with COCO's layout and the weights of a tiny model."""
    write_coco(tmp_path)
    monkeypatch.setenv("DATASET", str(tmp_path))
    monkeypatch.chdir(REPOSITORY)
    return Setting(tmp_path, BASE, "tiny.pth", SMALL)


def evaluate(place: Setting, *words) -> int:
    flags = ["--config-file", f"configs/pretrain/{BASE}.yaml", "--weight", str(place.weight)]
    return report_errors(lambda: run_evaluation(None, [*flags, *place.sizes, *map(str, words)]))


def folder(place: Setting, name: str = "coco_2017_val") -> Path:
    return place.folder / "out/eval/tiny/inference" / name


def write_task(place: Setting, name: str, text: str) -> Path:
    path = place.folder / f"{name}.yaml"
    register = "REGISTER: {val: {img_dir: coco/val2017, ann_file: coco/annotations/instances_val2017.json}}"
    path.write_text(f"DATASETS:\n  TEST: [val]\n  {register}\n{text}")
    return path


def found(path: Path) -> list[dict]:
    return json.loads((path / "bbox.json").read_text())


def test_tasks_with_equal_names_keep_their_results_apart(place):
    """What a task's file says about the model takes effect; the placeholders for numbers of classes do not."""
    few = write_task(place, "few", "MODEL: {DYHEAD: {NUM_CLASSES: 2}, ATSS: {DETECTIONS_PER_IMG: 3, NUM_CLASSES: 2}}")
    text = write_task(place, "other", "MODEL: {DYHEAD: {SCORE_AGG: MAX}}\nTEST: {CHUNKED_EVALUATION: 2}")
    layers = write_task(place, "layers", "MODEL: {LANGUAGE_BACKBONE: {PAD_MAX: False}}")
    assert evaluate(place, "--task_config", f"{few},{text},{layers}") == 0
    numbers = Counter(row["image_id"] for row in found(folder(place, "few/val")))
    assert set(numbers.values()) == {3}
    assert len(found(folder(place, "other/val"))) > 9
    log = (place.folder / "out/eval/tiny/log.txt").read_text()
    assert "2 prompts" in log and log.count("describes another network") == 1
    assert "Result of few/val: AP" in log
    summary = json.loads((folder(place, "tasks.json")).read_text())
    assert list(summary["tasks"]) == ["few", "other", "layers"]
    assert summary["median"] == sorted(entry["AP"] for entry in summary["tasks"].values())[1]
    assert "| mean" in log and (folder(place, "few/val") / "report.html").is_file()


def test_tasks_that_mean_other_data_by_a_name_keep_apart(place):
    """As tasks of ODinW, some of which are evaluated on val and some on minival."""
    one, two = (write_task(place, name, "") for name in ("pothole", "EgoHands_generic"))
    entry = "{img_dir: coco/val2017, ann_file: coco/annotations/instances_val2017.json}"
    two.write_text(f"DATASETS: {{TEST: [minival], REGISTER: {{minival: {entry}, val: {entry.replace('7,', '4,')}}}}}\n")
    assert evaluate(place, "--task_config", f"{one},{two}", "TEST.SUBSET", 1, "TEST.REPORT", False) == 0
    runs = find_runs(place.folder / "out")
    assert {(run.task, run.folder.name) for run in runs} == {("pothole", "val"), ("EgoHands_generic", "minival")}


def test_tasks_without_data_are_told_before_the_first_is_evaluated(place, capsys):
    one, two = (write_task(place, name, "") for name in ("one", "two"))
    two.write_text(two.read_text().replace("coco/val2017", "coco/elsewhere"))
    assert evaluate(place, "--task_config", f"{one},{two}") == BAD_INPUT
    assert "data of 1 of 2 tasks are missing (two). Cannot find coco/elsewhere" in capsys.readouterr().err
    assert not list(place.folder.glob("out/eval/tiny/inference/*"))


def test_tasks_keep_what_was_prepared_for_the_gpu(place, monkeypatch):
    forgotten: list[Path] = []
    inference = evaluation_run.inference

    def watched_inference(model, *args, **kwargs):
        with monkeypatch.context() as patch:
            patch.setattr(model.acceleration, "forget", lambda: forgotten.append(kwargs["output_folder"]))
            return inference(model, *args, **kwargs)

    monkeypatch.setattr(evaluation_run, "inference", watched_inference)
    tasks = [write_task(place, name, "") for name in ("one", "two")]
    assert evaluate(place, "--task_config", ",".join(map(str, tasks))) == 0
    assert not forgotten


def test_collections_stand_for_their_files(monkeypatch):
    monkeypatch.chdir(REPOSITORY)
    cfg = default_config()
    tasks = task_configurations(cfg, "odinw_13, configs/odinw_35/WildfireSmoke.yaml", ["DATASETS.TEST", '("test",)'])
    assert [task.name for task in tasks] == [*ODINW_13, "WildfireSmoke"]
    assert all(task.cfg.DATASETS.TEST == ("test",) for task in tasks)
    assert tasks[0].cfg.DATASETS.REGISTER.test != tasks[1].cfg.DATASETS.REGISTER.test
    assert "names no file" in str(pytest.raises(ValueError, task_configurations, cfg, " ,", []).value)


def test_files_of_tasks_that_are_called_the_same():
    paths = [Path(text) for text in ("a/one.v2.yaml", "b/one.v2.yaml", "b/two.yaml", "b/../a/one.v2.yaml", "b/two.yml")]
    assert list(named_files(paths)) == ["a-one.v2", "b-one.v2", "two.yaml", "two.yml"]
    assert len(named_files([*task_files("odinw_13"), *task_files("odinw_35")])) == 13 + 35


def test_one_task_has_the_original_layout(place):
    task = write_task(place, "task", "")
    assert evaluate(place, "--task_config", task, "OUTPUT_DIR", place.folder / "out") == 0
    assert (folder(place, "val") / "bbox.csv").is_file()


def test_weights_of_the_configuration(place):
    """Without --weight results go to OUTPUT_DIR itself."""
    words = ["--config-file", f"configs/pretrain/{BASE}.yaml", *place.sizes, "MODEL.WEIGHT", str(place.weight)]
    assert run_evaluation(None, [*words, "--local_rank", "0", "--world-size", "1", "--dist-url", "env://"]) == 0
    assert (place.folder / "out/inference/coco_2017_val/bbox.json").is_file()
    log = (place.folder / "out/log.txt").read_text()
    assert re.search(r"Total inference time: .* s / img per device, on 1 devices\)", log)
    assert re.search(r"Per image: [\d.]+ s waiting for data, [\d.]+ s model, [\d.]+ s keeping results", log)
    assert "Average Recall     (AR) @[ IoU=0.50:0.95 | area= large | maxDets=100 ]" in log


def test_the_function_that_other_tools_know(place):
    """run_test of tools/test_net.py: into OUTPUT_DIR/inference, or the folder that is named."""
    cfg = default_config()
    cfg.merge_from_file(f"configs/pretrain/{BASE}.yaml")
    cfg.merge_from_list([*place.sizes, "TEST.EVAL_TASK", "detection"])
    model = build_detection_model(cfg)
    run_test = load_tool("test_net").run_test
    figures = run_test(cfg, model, distributed=False)
    assert run_test(cfg, model, False, str(place.folder / "log")) == figures and figures["coco_2017_val"]["AP"] >= 0
    for parent in ("out", "log"):
        assert (place.folder / parent / "inference/coco_2017_val/bbox.csv").is_file()


@pytest.mark.parametrize(("is_standard", "limit"), [(False, "-1"), (True, "300")])
def test_standard_and_fixed_ap_of_lvis(place, is_standard, limit):
    write_lvis(place.folder)
    words = ("TEST.EVAL_TASK", "detection", "DATASETS.LVIS_USE_NORMAL_AP", is_standard)
    assert evaluate(place, "--task_config", "configs/lvis/minival.yaml", *words) == 0
    rows = (folder(place, "lvis_evaluation_mini_val") / "bbox.csv").read_text().splitlines()
    assert len(rows) == 14 and all(f"maxDets={limit:>3} catIds=" in row for row in rows[1:])


class Interrupted(Exception):
    """What ends an evaluation in these tests."""


def test_resumed_evaluation_equals_one_without_stop(place, monkeypatch):
    assert evaluate(place) == 0
    whole = found(folder(place))
    seen: list[int] = []
    add = inference_module.PredictionStore.add

    def add_or_stop(store, index, boxes):
        if seen == [0, 1]:
            raise Interrupted
        seen.append(index)
        add(store, index, boxes)

    with monkeypatch.context() as patch:
        patch.setattr(inference_module.PredictionStore, "add", add_or_stop)
        with pytest.raises(Interrupted):
            evaluate(place)
    seen.clear()
    monkeypatch.setattr(inference_module.PredictionStore, "add", lambda *args: (seen.append(args[1]), add(*args)))
    assert evaluate(place, "--resume") == 0
    assert seen == [2] and found(folder(place)) == whole
    assert evaluate(place, "--resume") == 0
    assert seen == [2], "nothing is left to do"
    assert evaluate(place) == 0
    assert seen == [2, 0, 1, 2] and len(list(folder(place).glob(f"predictions/{PATTERN}"))) == 1


def test_other_settings_are_not_resumed(place, capsys):
    assert evaluate(place) == 0
    assert evaluate(place, "--resume", "INPUT.MIN_SIZE_TEST", 96) == BAD_INPUT
    assert "cannot be resumed, as it differs in INPUT" in capsys.readouterr().err
    assert evaluate(place, "--resume", "TEST.IMS_PER_BATCH", 2) == 0, "the batch size changes nothing"
    place.weight.touch()
    assert evaluate(place, "--resume") == 0, "the content of the weights is the same"
    assert evaluate(place, "--resume", "--precision", "bf16") == BAD_INPUT
    content = torch.load(place.weight)
    next(iter(content["model"].values())).view(-1)[0] += 1
    torch.save(content, place.weight)
    assert evaluate(place, "--resume") == BAD_INPUT
    messages = capsys.readouterr().err
    assert "it differs in precision" in messages and "it differs in weight" in messages
    note = folder(place) / "predictions/evaluation.json"
    note.write_text(note.read_text()[:20])
    assert evaluate(place, "--resume") == BAD_INPUT
    assert "evaluation.json is not valid JSON" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda content: content["images"][0].update(file_name="2.png"), "it differs in pictures;"),
        (lambda content: content["categories"][0].update(name="fox"), "it differs in classes;"),
        (lambda content: content["annotations"][0].update(bbox=[1, 2, 3, 4]), ""),
    ],
    ids=["picture", "class", "truth"],
)
def test_other_data_are_not_resumed(place, capsys, change, message):
    """What is right in the pictures may change: figures are computed again."""
    path = place.folder / "coco/annotations/instances_val2017.json"
    assert evaluate(place) == 0
    before = found(folder(place))
    content = json.loads(path.read_text())
    change(content)
    path.write_text(json.dumps(content))
    assert evaluate(place, "--resume") == (BAD_INPUT if message else 0)
    assert message in capsys.readouterr().err and found(folder(place)) == before


def test_other_prompts_are_not_resumed(place, capsys):
    path = place.folder / "prompts.yaml"
    words = ("DATASETS.USE_CAPTION_PROMPT", True, "DATASETS.CAPTION_PROMPT", path)
    for name, code in (("cat", 0), ("cat", 0), ("fox", BAD_INPUT)):
        path.write_text(json.dumps([{"prefix": "a ", "name": name, "suffix": ""}] * 3))
        assert evaluate(place, "--resume", *words) == code
    assert "it differs in prompts;" in capsys.readouterr().err


def test_missing_pictures(place, capsys):
    for name in ("5.png", "9.png"):
        (place.folder / "coco/val2017" / name).unlink()
    assert evaluate(place) == BAD_INPUT
    message = capsys.readouterr().err.splitlines()[-1]
    assert "2 of 3 pictures are missing" in message and "5.png" in message and "--skip-missing" in message
    assert not folder(place).exists()
    assert evaluate(place, "--skip-missing") == 0
    assert {row["image_id"] for row in found(folder(place))} == {2}
    shutil.rmtree(place.folder / "coco/val2017")
    assert evaluate(place, "--skip-missing") == BAD_INPUT


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"categories": []}, "has no categories to ask for"),
        ({"images": []}, "no usable picture"),
        ({"images": None}, "not in COCO format"),
    ],
    ids=["no categories", "empty", "not COCO"],
)
def test_unusable_annotations(place, capsys, change, message):
    path = place.folder / "coco/annotations/instances_val2017.json"
    content = json.loads(path.read_text()) | change
    path.write_text(json.dumps({key: value for key, value in content.items() if value is not None}))
    assert evaluate(place) == BAD_INPUT
    assert message in capsys.readouterr().err.splitlines()[-1]
    assert not list(folder(place).glob("bbox*")), "nothing is written under a final name"


@pytest.mark.parametrize(
    ("section", "change", "message"),
    [
        ("images", {"width": None}, "test set coco_2017_val: image 5 has the width and height None and 80"),
        ("annotations", {"bbox": None}, "annotation 1 of image 2 has the box None, not four numbers"),
        ("annotations", {"bbox": [1, 2, float("nan"), 4]}, "[1, 2, nan, 4], not four numbers"),
        ("annotations", {"id": None}, "a record has no 'id'"),
        ("annotations", {"category_id": 77}, "annotation 1 of image 2 has category 77, which is not in the list of 3"),
    ],
    ids=["no size", "no box", "not a number", "no id", "no such category"],
)
def test_unusable_records(place, capsys, section, change, message):
    """They are named before any picture is looked at; a value of None stands for a missing key."""
    path = place.folder / "coco/annotations/instances_val2017.json"
    content = json.loads(path.read_text())
    changed = content[section][0] | change
    content[section][0] = {key: value for key, value in changed.items() if value is not None}
    path.write_text(json.dumps(content))
    assert evaluate(place) == BAD_INPUT
    assert message in capsys.readouterr().err.splitlines()[-1]
    assert not folder(place).exists()


@pytest.mark.parametrize("key", ["neg_category_ids", "width"])
def test_unusable_records_of_lvis(place, capsys, key):
    path = write_lvis(place.folder)
    content = json.loads(path.read_text())
    del content["images"][2][key]
    path.write_text(json.dumps(content))
    assert evaluate(place, "--task_config", "configs/lvis/minival.yaml", "TEST.EVAL_TASK", "detection") == BAD_INPUT
    message = capsys.readouterr().err.splitlines()[-1]
    assert key in message and "3" in message and not folder(place, "lvis_evaluation_mini_val").exists()


@pytest.mark.parametrize("ids", [(0, 1, 2), ("a", "b", "c"), (900, 3, 40)])
def test_unusual_category_ids(place, ids):
    """Ids from 0 on, texts, and any numbers; id 0 is asked for where something is annotated with it."""
    path = place.folder / "coco/annotations/instances_val2017.json"
    content = json.loads(path.read_text())
    names = zip(ids, ("cat", "dog", "cup"), strict=True)
    content["categories"] = [{"id": number, "name": name} for number, name in names]
    content["annotations"] = [row | {"category_id": ids[0]} for row in content["annotations"]]
    path.write_text(json.dumps(content))
    assert evaluate(place) == 0
    assert {row["category_id"] for row in found(folder(place))} == set(ids)


def test_repeated_image_ids(place, capsys):
    path = place.folder / "coco/annotations/instances_val2017.json"
    content = json.loads(path.read_text())
    path.write_text(json.dumps(content | {"images": content["images"] * 2}))
    assert evaluate(place) == BAD_INPUT
    assert "more than once" in capsys.readouterr().err.splitlines()[-1]


def test_weights_of_another_architecture(place, capsys):
    torch.save({"model": {"some.weight": torch.zeros(3)}}, place.weight)
    assert evaluate(place) == BAD_INPUT
    assert "tiny.pth" in capsys.readouterr().err.splitlines()[-1]


def test_expected_results(place):
    expected = [("bbox", "AP", (0.9, 0.01))]
    assert evaluate(place, "TEST.EXPECTED_RESULTS", expected) == 0
    assert "FAIL: bbox > AP" in (place.folder / "out/eval/tiny/log.txt").read_text()


def test_wrong_expected_results_are_told_at_once(place, capsys):
    assert evaluate(place, "TEST.EXPECTED_RESULTS", [("bbox", "AP", 0.9)]) == BAD_INPUT
    assert "('bbox', 'AP', 0.9); give (kind, figure, (mean, deviation))" in capsys.readouterr().err
    assert not folder(place).exists()


def test_augmentation_over_several_prompts(place):
    words = ("TEST.USE_MULTISCALE", True, "TEST.SCALES", (64, 96), "TEST.RANGES", (), "TEST.CHUNKED_EVALUATION", 1)
    assert evaluate(place, *words, "TEST.SPECIAL_NMS", "vote") == 0
    rows = found(folder(place))
    assert {row["category_id"] for row in rows} == {3, 7, 11} and {row["image_id"] for row in rows} == {2, 5, 9}


@pytest.mark.parametrize("task", ["configs/flickr/test.yaml", "configs/lvis/minival.yaml"])
def test_augmentation_of_sentences_and_of_lvis(place, task):
    """Several sentences on a picture in a batch, left and right in one of them; several prompts."""
    write_flickr(place.folder)
    write_lvis(place.folder)
    words = ("TEST.USE_MULTISCALE", True, "TEST.SCALES", (64, 96), "TEST.RANGES", (), "TEST.IMS_PER_BATCH", 2)
    kind = "grounding" if "flickr" in task else "detection"
    assert evaluate(place, "--task_config", task, *words, "TEST.EVAL_TASK", kind, "TEST.CHUNKED_EVALUATION", 4) == 0
    (path,) = (place.folder / "out/eval/tiny/inference").glob("*/metrics.json")
    figures = json.loads(path.read_text())
    assert "Recall@1_animals" in figures if kind == "grounding" else "APr" in figures["bbox"]
    with closing(PredictionStore(path.parent / "predictions")) as store:
        assert len(store) == (6 if kind == "grounding" else 5) and min(len(boxes) for _, boxes in store) > 0


def test_classes_with_descriptions(place, capsys):
    """Knowledge of a task's configuration takes effect, at any batch size."""
    know = "GLIPKNOW: {PARALLEL_LANGUAGE_INPUT: True, KNOWLEDGE_FILE: knowledge/scenes.yaml, KNOWLEDGE_TYPE: gpt3}"
    tasks = f"{write_task(place, 'with', know)},{write_task(place, 'without', '')}"
    assert evaluate(place, "--task_config", tasks, "TEST.IMS_PER_BATCH", 3) == 0
    scores = [sorted(row["score"] for row in found(folder(place, f"{name}/val"))) for name in ("with", "without")]
    assert scores[0] and scores[1] and scores[0] != scores[1]
    assert evaluate(place, "--task_config", tasks, "TEST.EVAL_TASK", "grounding") == BAD_INPUT
    assert "describes classes: set TEST.EVAL_TASK detection" in capsys.readouterr().err


def test_task_that_the_data_do_not_serve(place, capsys):
    assert evaluate(place, "TEST.EVAL_TASK", "grounding") == BAD_INPUT
    assert "has no captions; TEST.EVAL_TASK grounding needs them" in capsys.readouterr().err
    write_flickr(place.folder)
    assert evaluate(place, "--task_config", "configs/flickr/test.yaml", "TEST.EVAL_TASK", "detection") == BAD_INPUT
    assert "FlickrDataset has captions and no categories: set TEST.EVAL_TASK grounding" in capsys.readouterr().err


@pytest.mark.parametrize("flags", [(), ("--model", "glip_nano", "--weight", "mine.pth")])
def test_command_needs_one_model(capsys, flags):
    """With both, it was the embedded model that was measured, and the file was not looked at."""
    assert glip(["eval", *flags, "OUTPUT_DIR", "out"]) == BAD_INPUT
    assert "--config-file FILE --weight FILE" in capsys.readouterr().err
