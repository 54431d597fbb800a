"""tools/finetune.py with a small model: folders, seeds, files, resuming, mistakes."""

import json
from pathlib import Path

import pytest
from nested_equality import assert_equal
from toy_run import MeanModel, load_tool
from tuning_data import write_task

from maskrcnn_benchmark.engine.training import training_run
from maskrcnn_benchmark.utils.weight_files import read_checkpoint

MODEL = """
MODEL:
  DEVICE: cpu
  LANGUAGE_BACKBONE: {{TOKENIZER_TYPE: {vocabulary}}}
INPUT: {{MIN_SIZE_TRAIN: 64}}
DATALOADER: {{NUM_WORKERS: 0, ASPECT_RATIO_GROUPING: false}}
SOLVER: {{OPTIMIZER: ADAMW, IMS_PER_BATCH: 2, MAX_EPOCH: 2, CHECKPOINT_PER_EPOCH: 1.0, WARMUP_ITERS: 0, SEED: 10}}
OUTPUT_DIR: {output}
"""
SHOTS = "--custom_shot_and_epoch_and_general_copy"


@pytest.fixture(scope="module")
def tool():
    return load_tool("finetune")


@pytest.fixture
def tune(tool, tmp_path, bert_vocabulary, monkeypatch):
    """`tune(*words, out="out")`: runs the tool on tasks "first" and "second", and returns the output folder."""
    monkeypatch.setattr(training_run, "build_detection_model", lambda cfg: MeanModel())
    (tmp_path / "model.yaml").write_text(MODEL.format(vocabulary=bert_vocabulary, output=tmp_path / "out"))
    for name in ("first", "second"):
        write_task(tmp_path, name, train=9, val=3)

    def run(*words: str, out: str = "out", tasks: str = "first.yaml") -> Path:
        files = ",".join(str(tmp_path / task) for task in tasks.split(","))
        command = ["--config-file", str(tmp_path / "model.yaml"), "--ft-tasks", files, "--skip-test"]
        assert tool.main([*command, *words, "OUTPUT_DIR", str(tmp_path / out)]) == 0
        return tmp_path / out

    return run


def final(folder: Path) -> dict:
    return read_checkpoint(folder / "model_final.pth")


def chosen(folder: Path) -> dict:
    (choice,) = json.loads((folder / "few_shot_images.json").read_text()).values()
    return choice


def test_tasks_shots_and_seeds(tune):
    out = tune(SHOTS, "1_1_4,2_1_2", "--shuffle_seeds", "3,30", tasks="first.yaml,second.yaml")
    folders = sorted(path.parent.relative_to(out) for path in out.rglob("model_final.pth"))
    assert folders == sorted(
        Path(f"shots_{shots}/ft_task_{task}_seed_{seed}") for shots in (1, 2) for task in (1, 2) for seed in (3, 30)
    )
    runs = json.loads((out / "results.json").read_text())["runs"]
    assert [(run["shots"], run["task"], run["seed"]) for run in runs[:3]] == [
        (1, "first", 3), (1, "first", 30), (1, "second", 3)
    ]  # fmt: skip
    for folder in folders:
        choice = chosen(out / folder)
        assert f"seed_{choice['seed']}" in folder.name and f"shots_{choice['shots']}" == folder.parent.name
        assert min(choice["pictures"].values()) >= choice["shots"]
        assert (out / folder / "config.yml").is_file() and (out / folder / "results.json").is_file()
    assert chosen(out / folders[0])["image_ids"] != chosen(out / folders[1])["image_ids"], "another seed"


def test_same_seed_same_result_whatever_ran_before(tune):
    both, alone = tune(tasks="first.yaml,second.yaml", out="both"), tune(tasks="second.yaml", out="alone")
    one, other = final(both / "ft_task_2"), final(alone / "ft_task_1")
    assert one["iteration"] == 9
    for entry in ("model", "optimizer", "random_state"):
        assert_equal(one[entry], other[entry])


def test_seed_of_the_solver_counts(tune):
    """For what the toy has of chance, the order of its pictures."""
    one, other = tune(out="ten"), tune("SOLVER.SEED", "11", out="eleven")
    weights = [final(folder / "ft_task_1")["model"]["layer.weight"] for folder in (one, other)]
    assert not weights[0].equal(weights[1])


def test_instances(tune):
    choice = chosen(
        tune(SHOTS, "2_1_2", "DATASETS.FEW_SHOT_RULE", "instances", "DATASETS.SHUFFLE_SEED", "3") / "ft_task_1"
    )
    assert choice["rule"] == "instances" and choice["boxes"] == {"cup": 2, "dog": 2}


def test_stopped_run_goes_on_to_the_same_result(tune):
    flags = (SHOTS, "2_2_3", "--shuffle_seeds", "3,30")
    whole, parts = tune(*flags, out="whole"), tune(*flags, "--max-minutes", "1e-9", out="parts")
    assert not (parts / "results.json").exists() and (parts / "ft_task_1_seed_3/last_checkpoint").exists()
    while not (parts / "ft_task_1_seed_30/model_final.pth").exists():
        tune(*flags, "--max-minutes", "1e-9", out="parts")
    for name in ("ft_task_1_seed_3", "ft_task_1_seed_30"):
        assert_equal(final(whole / name), final(parts / name))
    assert [len(json.loads((out / "results.json").read_text())["runs"]) for out in (whole, parts)] == [2, 2]


def test_what_is_done_is_not_done_again(tune, caplog):
    caplog.set_level("INFO", "maskrcnn_benchmark.finetune")
    out = tune()
    before = (out / "ft_task_1/model_final.pth").stat().st_mtime_ns
    tune()
    assert "ft_task_1 is done already" in caplog.text
    assert (out / "ft_task_1/model_final.pth").stat().st_mtime_ns == before
    tune("--resume", "none")
    assert (out / "ft_task_1/model_final.pth").stat().st_mtime_ns > before


def test_fresh_start_that_is_stopped_goes_on(tune):
    """Neither the result nor the checkpoint of before is taken for its own."""
    out = tune()
    before = final(out / "ft_task_1")
    tune("SOLVER.BASE_LR", "0.01", "--resume", "none", "--max-minutes", "1e-9")
    assert not (out / "ft_task_1/results.json").exists()
    tune("SOLVER.BASE_LR", "0.01")
    after, alone = final(out / "ft_task_1"), final(tune("SOLVER.BASE_LR", "0.01", out="alone") / "ft_task_1")
    assert_equal(after, alone)
    assert not after["model"]["layer.weight"].equal(before["model"]["layer.weight"])


def test_checkpoint_of_another_run_is_not_gone_on_from(tune):
    out = tune("MODEL.WEIGHT", "")
    with pytest.raises(
        ValueError, match=r"has a checkpoint of another run \(SOLVER.BASE_LR was 0.001, is 0.01\): give"
    ):
        tune("SOLVER.BASE_LR", "0.01")
    with pytest.raises(
        ValueError, match=r"DATASETS.REGISTER was .*\.\.\., is .*; DATASETS.SHUFFLE_SEED was 0, is 3\)"
    ) as error:
        tune("DATASETS.SHUFFLE_SEED", "3", tasks="second.yaml")
    assert "--resume none" in str(error.value)
    tune("SOLVER.MAX_EPOCH", "3")
    assert final(out / "ft_task_1")["iteration"] == 13, "a longer run goes on"


def test_weights_of_a_checkpoint_alone(tune):
    tune()
    out = tune("--skip_optimizer_resume", "SOLVER.BASE_LR", "0.01", "SOLVER.MAX_EPOCH", "1")
    assert final(out / "ft_task_1")["iteration"] == 4


def test_copied_weights(tune, tmp_path):
    weight = tmp_path / "start.pth"
    weight.write_bytes(b"weights")
    out = tune(SHOTS, "10000_1_1", "MODEL.WEIGHT", str(weight))
    assert (out / "ft_task_1/model_best.pth").read_bytes() == b"weights"
    assert not (out / "ft_task_1/last_checkpoint").exists()
    with pytest.raises(ValueError, match="10000 shots copy MODEL.WEIGHT, which is empty"):
        tune(SHOTS, "10000_1_1")
    trained = tune(SHOTS, "1_1_2", out="trained")
    with pytest.raises(ValueError, match="ft_task_1 has checkpoints of a training, whose best would be lost"):
        tune(SHOTS, "10000_1_1", "MODEL.WEIGHT", str(weight), out="trained")
    assert not (trained / "ft_task_1/model_best.pth").exists()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"bbox": [float("nan"), 1, 5, 5]}, "data set train .* has 1 boxes that are not four finite numbers"),
        ({"category_id": 9}, "annotation 1 of image 1 has category 9, which is not in the list of 2 categories"),
    ],
)
def test_bad_annotations(tune, tmp_path, change, message):
    path = tmp_path / "first/train.json"
    content = json.loads(path.read_text())
    content["annotations"][0] |= change
    path.write_text(json.dumps(content))
    with pytest.raises(ValueError, match=message):
        tune()


def test_empty_validation_set(tune, tmp_path):
    path = tmp_path / "first/val.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"annotations": []}))
    with pytest.raises(ValueError, match="validation set val .* has no box in 3 pictures"):
        tune("TEST.DURING_TRAINING", "True")
    path.write_text(json.dumps(json.loads(path.read_text()) | {"images": []}))
    with pytest.raises(ValueError, match="dataset val has no usable picture"):
        tune("TEST.DURING_TRAINING", "True")


def test_more_shots_than_there_are(tune, caplog):
    choice = chosen(tune(SHOTS, "50_1_1") / "ft_task_1")
    assert len(choice["image_ids"]) == 9 and "fewer pictures than the 50 shots" in caplog.text


def test_changed_pictures_are_told_when_a_run_goes_on(tune, tmp_path, caplog):
    tune(SHOTS, "1_2_4", "--max-minutes", "1e-9")
    assert "no longer those" not in caplog.text
    path = tmp_path / "first/train.json"
    content = json.loads(path.read_text())
    path.write_text(json.dumps(content | {"images": content["images"][1:]}))
    tune(SHOTS, "1_2_4")
    assert "the few-shot pictures are no longer those of" in caplog.text


def test_long_warm_up_is_told(tune, caplog):
    tune("SOLVER.WARMUP_ITERS", "100")
    assert "SOLVER.WARMUP_ITERS 100 of 9 iterations" in caplog.text


def test_flags_that_mean_nothing(tune):
    with pytest.raises(ValueError, match="--max-minutes 0: give a positive number"):
        tune("--max-minutes", "0")


def test_flag_without_effect_is_told(tune, caplog):
    tune("--keep_testing")
    assert "--keep_testing has no effect" in caplog.text


def test_fewer_pictures_than_a_batch(tune):
    with pytest.raises(ValueError, match="yields a batch of 8: .*Use a smaller batch, fewer processes or more copies"):
        tune(SHOTS, "1_20_1", "SOLVER.IMS_PER_BATCH", "8")


def test_names_that_other_projects_import(tool):
    names = ("train", "test", "tuning_highlevel_override", "report_freeze_options", "removekey")
    assert all(callable(getattr(tool, name)) for name in names)
    given = {"a": 1, "b": 2, "ab": 3}
    assert tool.removekey(given, ["a", "b"]) == {"ab": 3} and tool.removekey(given, "ab") == {"a": 1, "b": 2}
    assert len(given) == 3
