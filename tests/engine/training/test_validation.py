"""Validation while training: the best weights are kept, and training ends when it is of no more use."""

import logging
import os
import signal
from pathlib import Path

import pytest
import torch
from nested_equality import assert_equal
from torch import nn
from toy_training import toy_trainer

from maskrcnn_benchmark.engine.training.validation import Validation, score_of
from maskrcnn_benchmark.solver import WarmupReduceLROnPlateau
from maskrcnn_benchmark.utils.weight_files import read_checkpoint


class Scores:
    """An evaluation with a prescribed score per call; remembers the models it was given."""

    def __init__(self, *scores: float):
        self.scores = list(scores)
        self.models: list[nn.Module] = []

    def __call__(self, model: nn.Module) -> dict[str, float]:
        self.models.append(model)
        return {"AP50": 1.0, "AP": self.scores[len(self.models) - 1]}


def weight(path: Path) -> torch.Tensor:
    return read_checkpoint(path)["model"]["box.weight"]


def test_patience_counts_scores_below_the_best_in_a_row():
    validation = Validation(Scores(0.2, 0.1, 0.2, 0.1, 0.19), patience=2)
    outcomes = [validation(nn.Linear(1, 1), iteration) for iteration in range(1, 6)]
    assert [outcome.is_best for outcome in outcomes] == [True, False, True, False, False], "a tie is no worse"
    assert [outcome.is_over for outcome in outcomes] == [False, False, False, False, True]
    assert validation.best == 0.2 and validation.figures == {"AP50": 1.0, "AP": 0.19}


def test_without_patience_training_never_ends():
    validation = Validation(Scores(*[0.5 - 0.01 * i for i in range(30)]))
    assert not any(validation(nn.Linear(1, 1), iteration).is_over for iteration in range(30))


@pytest.mark.parametrize("patience", [0, -2])
def test_patience_that_ends_at_once_is_refused(patience):
    with pytest.raises(ValueError, match=f"SOLVER.AUTO_TERMINATE_PATIENCE={patience}"):
        Validation(Scores(), patience)


def test_score_of_detection_and_grounding():
    assert score_of({"AP50": 0.4, "AP": 0.3}) == 0.3
    assert score_of({"Recall@5_all": 0.9, "Recall@1_all": 0.6}) == 0.6
    with pytest.raises(ValueError, match="measured Upper_bound, none of AP"):
        score_of({"Upper_bound": 1.0})


def test_best_weights_are_kept_and_are_not_what_a_run_goes_on_from(tmp_path):
    trainer = toy_trainer(tmp_path, 8, checkpoint_period=2, validation=Validation(Scores(0.1, 0.3, 0.2, 0.2)))
    assert trainer.train()
    best = read_checkpoint(tmp_path / "model_best.pth")
    assert best["iteration"] == 4 and best["eval_result"] == 0.3
    assert torch.equal(weight(tmp_path / "model_best.pth"), weight(tmp_path / "model_0000004.pth"))
    assert (tmp_path / "last_checkpoint").read_text() == "model_final.pth"
    assert read_checkpoint(tmp_path / "model_final.pth")["eval_result"] == 0.2


def test_training_ends_early_and_stays_ended(tmp_path, caplog):
    caplog.set_level(logging.INFO, "maskrcnn_benchmark.trainer")
    scores = Scores(0.1, 0.3, 0.2, 0.2)
    trainer = toy_trainer(tmp_path, 20, checkpoint_period=2, validation=Validation(scores, patience=2))
    assert trainer.train() and trainer.iteration == 8
    assert "No better than 0.3000 for 2 validations: training ends" in caplog.text
    assert read_checkpoint(tmp_path / "model_final.pth")["iteration"] == 8
    again = toy_trainer(tmp_path, 20, resume=True, checkpoint_period=2, validation=Validation(Scores(), patience=2))
    assert again.train() and again.model.calls == 0
    longer = Validation(Scores(*[0.4] * 6), patience=3)
    more = toy_trainer(tmp_path, 20, resume=True, checkpoint_period=2, validation=longer)
    assert more.train() and more.iteration == 20, "a greater patience goes on"


@pytest.mark.parametrize("use_average", [False, True])
def test_averaged_weights_are_measured_on_request(tmp_path, use_average):
    scores = Scores(0.1)
    trainer = toy_trainer(tmp_path, 2, ema_decay=0.5, validation=Validation(scores, use_average=use_average))
    trainer.train()
    (measured,) = scores.models
    assert measured is (trainer.ema.ema if use_average else trainer.model)
    assert not trainer.ema.ema.training and trainer.model.training


def test_without_an_average_the_weights_themselves_are_measured(tmp_path):
    scores = Scores(0.1)
    trainer = toy_trainer(tmp_path, 2, validation=Validation(scores, use_average=True))
    trainer.train()
    assert scores.models == [trainer.model]


def test_a_plateau_lowers_the_rate(tmp_path):
    trainer = toy_trainer(tmp_path, 8, checkpoint_period=2, validation=Validation(Scores(0.4, 0.3, 0.3, 0.3)))
    trainer.scheduler = WarmupReduceLROnPlateau(trainer.optimizer, gamma=0.1, patience=1, warmup_iters=0)
    trainer.train()
    assert trainer.optimizer.param_groups[0]["lr"] == pytest.approx(0.001)


def test_a_run_stopped_at_a_checkpoint_is_measured_when_it_goes_on(tmp_path):
    stopped = toy_trainer(tmp_path, 4, checkpoint_period=2, validation=Validation(Scores(0.1, 0.2)))
    stopped.train_batch = stop_at(stopped, 2)
    assert not stopped.train()
    rest = toy_trainer(tmp_path, 4, resume=True, checkpoint_period=2, validation=Validation(Scores(0.4, 0.2)))
    assert rest.train()
    assert read_checkpoint(tmp_path / "model_best.pth")["iteration"] == 2
    assert rest.validation.iteration == 4 and rest.validation.best == 0.4


def stop_at(trainer, iteration: int):
    train_batch = trainer.train_batch

    def train_and_stop(*batch) -> None:
        train_batch(*batch)
        trainer._must_stop = trainer.iteration == iteration

    return train_and_stop


def test_scores_survive_a_checkpoint(tmp_path):
    whole = toy_trainer(tmp_path / "whole", 8, checkpoint_period=2, validation=Validation(Scores(0.1, 0.3, 0.2, 0.4)))
    whole.train()
    parts = tmp_path / "parts"
    toy_trainer(parts, 8, checkpoint_period=2, validation=Validation(Scores(0.1, 0.3, 0.2, 0.4))).train()
    (parts / "last_checkpoint").write_text("model_0000004.pth")
    rest = toy_trainer(parts, 8, resume=True, checkpoint_period=2, validation=Validation(Scores(0.2, 0.4)))
    assert (rest.validation.best, rest.validation.iteration) == (0.3, 4)
    rest.train()
    assert rest.validation.state_dict() == whole.validation.state_dict()


def test_history_survives_a_checkpoint():
    figures = iter([{"AP": 0.2}, {"AP": 0.1}, {"AP": 0.3}])
    first = Validation(lambda model: next(figures))
    for iteration in (2, 4):
        first(nn.Identity(), iteration)
    resumed = Validation(lambda model: next(figures))
    resumed.load_state_dict(first.state_dict())
    resumed(nn.Identity(), 6)
    assert resumed.history == [(2, {"AP": 0.2}), (4, {"AP": 0.1}), (6, {"AP": 0.3})]
    resumed.load_state_dict({key: value for key, value in first.state_dict().items() if key != "history"})
    assert resumed.history == [], "of a checkpoint that has none"


def test_sigterm_while_a_model_is_measured_saves_what_was_trained(tmp_path):
    """The figures count as well: the run goes on behind them, to the end of one that nobody stopped."""

    def measured(folder: Path, *, is_stopped: bool = False, **options) -> bool:
        def evaluate(model: nn.Module) -> dict[str, float]:
            if is_stopped and len(validation.history) == 1:
                os.kill(os.getpid(), signal.SIGTERM)
            return {"AP": float(model.box.weight.sum())}

        validation = Validation(evaluate)
        return toy_trainer(folder, 8, checkpoint_period=3, ema_decay=0.5, validation=validation, **options).train()

    assert measured(tmp_path / "whole")
    assert not measured(tmp_path / "parts", is_stopped=True)
    stopped = read_checkpoint(tmp_path / "parts" / (tmp_path / "parts" / "last_checkpoint").read_text())
    assert stopped["iteration"] == 7 and [iteration for iteration, _ in stopped["validation"]["history"]] == [3, 6]
    assert measured(tmp_path / "parts", resume=True)
    assert_equal(*(read_checkpoint(tmp_path / name / "model_final.pth") for name in ("whole", "parts")))
