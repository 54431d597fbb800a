"""Measuring a model while it is trained: which weights are the best so far, and whether more training is of use."""

import logging
import math
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import torch
from torch import nn

from maskrcnn_benchmark.utils.metric_logger import MetricLogger, TensorboardLogger

Figures = dict[str, float]
Evaluate = Callable[[nn.Module], Figures]

SCORES = ("AP", "Recall@1_all")
"""Figures that say which of two models is better, the first that was measured counts."""

logger = logging.getLogger("maskrcnn_benchmark.trainer")


class Outcome(NamedTuple):
    """What a measurement led to.

    Attributes:
        score: the figure of SCORES; is_best: no earlier one is higher; is_over: training should end.
    """

    score: float
    is_best: bool
    is_over: bool


class Validation:
    """Measures a model now and then.

    Args:
        evaluate: the figures of a model in evaluation mode; called by all processes, which get the same.
        patience: training is over after that many measurements in a row below the best; -1 for never.
        use_average: measure the averaged copy of the weights, where there is one.
        present: shows a model in evaluation mode after it was measured: called with it, the iteration and the figures.

    Attributes: best, the highest score; figures, the latest; iteration, when they were measured; history, all figures
        as pairs (iteration, figures).
    Raises: ValueError for a patience that would end every training.
    """

    def __init__(
        self,
        evaluate: Evaluate,
        patience: int = -1,
        use_average: bool = False,
        present: Callable[[nn.Module, int, Figures], None] | None = None,
    ):
        if patience < 1 and patience != -1:
            raise ValueError(
                f"SOLVER.AUTO_TERMINATE_PATIENCE={patience}: give a positive number of validations, or -1 to train on"
            )
        self.evaluate = evaluate
        self.patience = patience
        self.use_average = use_average
        self.present = present
        self.best = -math.inf
        self.worse_in_a_row = 0
        self.iteration = 0
        self.figures: Figures = {}
        self.history: list[tuple[int, Figures]] = []

    @torch.no_grad()
    def __call__(self, model: nn.Module, iteration: int) -> Outcome:
        """Measures the model, which is left in evaluation mode. A score that equals the best is one."""
        model.eval()
        self.figures, self.iteration = self.evaluate(model), iteration
        self.history.append((iteration, self.figures))
        if self.present is not None:
            self.present(model, iteration, self.figures)
        score = score_of(self.figures)
        is_best = score >= self.best
        if is_best:
            self.best, self.worse_in_a_row = score, 0
        else:
            self.worse_in_a_row += 1
        logger.info("Validation at iteration %d: %.4f, best %.4f", iteration, score, self.best)
        if self.is_over:
            logger.info("No better than %.4f for %d validations: training ends", self.best, self.worse_in_a_row)
        return Outcome(score, is_best, self.is_over)

    @property
    def is_over(self) -> bool:
        """Whether patience has run out."""
        return self.patience != -1 and self.worse_in_a_row >= self.patience

    def state_dict(self) -> dict[str, Any]:
        return {
            "best": self.best,
            "worse_in_a_row": self.worse_in_a_row,
            "iteration": self.iteration,
            "figures": dict(self.figures),
            "history": [(iteration, dict(figures)) for iteration, figures in self.history],
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        self.best, self.worse_in_a_row = float(state["best"]), int(state["worse_in_a_row"])
        self.iteration, self.figures = int(state["iteration"]), dict(state["figures"])
        self.history = list(state.get("history", ()))  # checkpoints of before have none


def score_of(figures: Figures) -> float:
    """The figure by which models are compared.

    Raises: ValueError if none of SCORES is among them.
    """
    for name in SCORES:
        if name in figures:
            return figures[name]
    raise ValueError(f"the evaluation measured {', '.join(figures) or 'nothing'}, none of {', '.join(SCORES)}")


def make_validation(cfg, data_loader, device: torch.device | str, meters: MetricLogger | None = None) -> Validation:
    """The validation that a configuration asks for, on one test set.

    A TensorboardLogger shows the figures, and a few pictures with what the model found.
    """
    # They import the evaluators and the drawing of boxes.
    from maskrcnn_benchmark.engine.inference import measure_model
    from maskrcnn_benchmark.engine.training.validation_pictures import draw_predictions

    def present(model: nn.Module, iteration: int, figures: Figures) -> None:
        if isinstance(meters, TensorboardLogger):
            meters.record(iteration, **{f"validation/{name}": value for name, value in figures.items()})
            pictures = draw_predictions(cfg, model, data_loader, device)
            meters.show(iteration, **{f"predictions/{number}": picture for number, picture in enumerate(pictures)})

    return Validation(
        lambda model: measure_model(cfg, model, [data_loader], device)[0],
        cfg.SOLVER.AUTO_TERMINATE_PATIENCE,
        cfg.SOLVER.USE_EMA_FOR_MONITOR,
        present,
    )
