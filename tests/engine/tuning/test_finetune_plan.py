"""Which trainings a fine-tuning command asks for."""

import argparse

import pytest

from maskrcnn_benchmark.engine.tuning.finetune_arguments import Shots, add_arguments, parse_all_shots, parse_seeds
from maskrcnn_benchmark.engine.tuning.finetune_plan import (
    base_configuration,
    plan_tunings,
    resolve_last_checkpoint,
    sets_to_test,
    task_files,
)

MODEL = "SOLVER: {MAX_EPOCH: 12, SEED: 7}\nOUTPUT_DIR: out\nMODEL: {WEIGHT: start.pth}\n"
TASK = "DATASETS: {TRAIN: [train], TEST: [val], GENERAL_COPY: 16, REGISTER: {train: {}, val: {}%s}}\n"


@pytest.fixture
def plan(tmp_path):
    """`plan("--flag", "KEY", "value")`: the planned trainings; {tmp} in a word is the folder of the files."""
    (tmp_path / "model.yaml").write_text(MODEL)
    (tmp_path / "b.v2.yaml").write_text(TASK % ", test: {}")
    (tmp_path / "a.yaml").write_text(TASK % "")

    def make(*words: str):
        parser = argparse.ArgumentParser()
        add_arguments(parser)
        words = [word.format(tmp=tmp_path) for word in words]
        args, opts = parser.parse_known_args(["--config-file", str(tmp_path / "model.yaml"), *words])
        return plan_tunings(args, opts, base_configuration(args, opts))

    return make


@pytest.mark.parametrize(
    ("text", "expected"),
    [("3_200_4", Shots(3, 200, 4)), ("3_200_4_1", Shots(3, 200, 4, 1)), ("10000_1_1", Shots(10000, 1, 1))],
)
def test_triples(text, expected):
    assert Shots.parse(text) == expected


@pytest.mark.parametrize("text", ["3_200", "3_200_4_1_1", "three_200_4", "3,200,4", "", "3_-2_4", "3_0_4", "3_2_0"])
def test_bad_triples(text):
    with pytest.raises(ValueError, match="--custom_shot_and_epoch_and_general_copy '.*: (give|. epochs of . copies)"):
        Shots.parse(text)


def test_lists():
    assert parse_all_shots(None) == parse_seeds(None) == [None]
    assert [shots.shots for shots in parse_all_shots("1_200_8,3_200_4")] == [1, 3]
    assert parse_seeds("3, 30,300") == [3, 30, 300]
    with pytest.raises(ValueError, match="asks for 3 shots twice"):
        parse_all_shots("3_200_4,3_100_4")
    for bad in ("3,x", "3,3", "", "3,,30"):
        with pytest.raises(ValueError, match="--shuffle_seeds '.*: give different numbers"):
            parse_seeds(bad)


def test_tasks_are_sorted_and_numbered(plan):
    planned = plan("--ft-tasks", "{tmp}/[ab]*.yaml", "--shuffle_seeds", "3,30")
    assert [one.cfg.OUTPUT_DIR for one in planned] == [
        f"out/ft_task_{number}_seed_{seed}" for number in (1, 2) for seed in (3, 30)
    ]
    assert [one.task for one in planned] == ["a", "a", "b.v2", "b.v2"]
    assert [one.cfg.DATASETS.SHUFFLE_SEED for one in planned] == [3, 30, 3, 30]
    assert all(one.cfg.is_frozen() and one.cfg.SOLVER.SEED == 7 for one in planned)
    assert planned[0].title == "task 1 (a), seed 3"


def test_one_task_is_the_model_configuration(plan):
    (one,) = plan("DATASETS.SHUFFLE_SEED", "3")
    assert (one.cfg.OUTPUT_DIR, one.task, one.number) == ("out/ft_task_1", "model", 1)
    assert one.cfg.DATASETS.SHUFFLE_SEED == 3 and one.shots is None is one.seed


def test_tasks_of_one_name_are_told_apart(plan, tmp_path):
    (tmp_path / "other").mkdir()
    (tmp_path / "other/a.yaml").write_text(TASK % "")
    assert [one.task for one in plan("--ft-tasks", "{tmp}/a.yaml,{tmp}/other/*.yaml")] == [
        f"{tmp_path.name}/a",
        "other/a",
    ]


def test_tasks_of_one_name_and_folder_are_told_apart(plan, tmp_path):
    """Else the table would take them for two seeds of one task."""
    for name in ("x/d/a.yaml", "y/d/a.yaml", "a.yml"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(TASK % "")
    assert [one.task for one in plan("--ft-tasks", "{tmp}/*/d/a.yaml")] == ["x/d/a", "y/d/a"]
    assert [one.task for one in plan("--ft-tasks", "{tmp}/a.y*ml")] == ["a.yaml", "a.yml"]


def test_patterns_that_overlap_name_a_task_once(plan):
    planned = plan("--ft-tasks", "{tmp}/b.v2.yaml,{tmp}/[ab]*.yaml")
    assert [(one.task, one.cfg.OUTPUT_DIR) for one in planned] == [("b.v2", "out/ft_task_1"), ("a", "out/ft_task_2")]


def test_odd_names_of_tasks(plan, tmp_path):
    (tmp_path / "[novel] t\N{LATIN SMALL LETTER A WITH CIRCUMFLEX}sk 1.yaml").write_text(TASK % "")
    (one,) = plan("--ft-tasks", "{tmp}/[novel] t\N{LATIN SMALL LETTER A WITH CIRCUMFLEX}sk 1.yaml,")
    assert one.task.startswith("[novel] t")


def test_shots_override_the_task_and_entries_override_shots(plan, caplog):
    flags = ("--ft-tasks", "{tmp}/a.yaml", "--custom_shot_and_epoch_and_general_copy", "3_200_4")
    (one,) = plan(*flags)
    assert (one.cfg.SOLVER.MAX_EPOCH, one.cfg.DATASETS.GENERAL_COPY, one.cfg.DATASETS.FEW_SHOT) == (200, 4, 3)
    assert not caplog.records
    (one,) = plan(*flags, "SOLVER.MAX_EPOCH", "2")
    assert one.cfg.SOLVER.MAX_EPOCH == 2
    assert "SOLVER.MAX_EPOCH 2 of the command line replaces 200 of the flag" in caplog.text


def test_several_shots_have_folders_of_their_own(plan):
    planned = plan("--custom_shot_and_epoch_and_general_copy", "1_200_8,0_200_1", "--shuffle_seeds", "3")
    assert [one.cfg.OUTPUT_DIR for one in planned] == ["out/shots_1/ft_task_1_seed_3", "out/shots_0/ft_task_1_seed_3"]
    assert planned[1].title == "task 1 (model), all shots, seed 3"


def test_seeds_win_over_entries(plan):
    """The original's loop is silently defeated by such an entry, while its folders are named by the loop."""
    assert plan("--shuffle_seeds", "30", "DATASETS.SHUFFLE_SEED", "3")[0].cfg.DATASETS.SHUFFLE_SEED == 30


@pytest.mark.parametrize(("triple", "test"), [("3_200_4", "val_3_30"), ("3_200_4_1", "val_1_30"), ("3_200_4_0", "val")])
def test_prepared_data_are_named_by_the_seed_of_the_loop(plan, triple, test):
    flags = ("--use_prepared_data", "--custom_shot_and_epoch_and_general_copy", triple, "--shuffle_seeds", "30")
    (one,) = plan(*flags, "--ft-tasks", "{tmp}/a.yaml", "DATASETS.TRAIN", '("train", )')
    assert one.cfg.DATASETS.TRAIN == ("train_3_30",) and tuple(one.cfg.DATASETS.TEST) == (test,)
    assert one.cfg.DATASETS.FEW_SHOT == 0


def test_prepared_data_of_all_pictures_are_all_pictures(plan):
    flags = ("--use_prepared_data", "--custom_shot_and_epoch_and_general_copy", "0_200_1")
    (one,) = plan(*flags, "--ft-tasks", "{tmp}/a.yaml")
    assert list(one.cfg.DATASETS.TRAIN) == ["train"]


def test_prepared_data_need_a_number_of_shots(plan):
    with pytest.raises(ValueError, match="--use_prepared_data needs --custom_shot_and_epoch_and_general_copy"):
        plan("--use_prepared_data")


def test_mode_is_written_into_the_configuration(plan):
    (one,) = plan("SOLVER.TUNING_HIGHLEVEL_OVERRIDE", "linear_prob")
    assert one.cfg.MODEL.LINEAR_PROB and one.cfg.MODEL.BACKBONE.FREEZE and not one.cfg.MODEL.RPN.FREEZE


def test_missing_tasks_and_output_are_errors(plan):
    with pytest.raises(FileNotFoundError, match="nothing_here"):
        plan("--ft-tasks", "{tmp}/nothing_here_*.yaml")
    with pytest.raises(ValueError, match="OUTPUT_DIR is empty"):
        plan("OUTPUT_DIR", "")
    assert task_files("") == task_files(" , ") == []


def test_last_checkpoint(tmp_path, plan):
    stands_for = tmp_path / "model_last_checkpoint.pth"
    assert resolve_last_checkpoint(str(stands_for)) == str(stands_for), "there is no tag"
    (tmp_path / "last_checkpoint").write_text("model_0000100.pth")
    (tmp_path / "model_0000100.pth").write_text("")
    assert resolve_last_checkpoint(str(stands_for)) == str(tmp_path / "model_0000100.pth")
    (one,) = plan("MODEL.WEIGHT", str(stands_for))
    assert one.cfg.MODEL.WEIGHT.endswith("model_0000100.pth")


@pytest.mark.parametrize(
    ("task", "best", "both", "expected"),
    [
        ("b.v2", False, False, ("val",)),
        ("b.v2", True, False, ("test",)),
        ("b.v2", False, True, ("val", "test")),
        ("b.v2", True, True, ("val", "test")),
        ("a", True, True, ("val",)),
    ],
)
def test_what_is_tested_on(plan, task, best, both, expected):
    (one,) = plan("--ft-tasks", f"{{tmp}}/{task}.yaml")
    assert sets_to_test(one.cfg, best, both) == expected
