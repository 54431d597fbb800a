"""How to train: the options of the training loop, and what the configuration says about them."""

from dataclasses import dataclass

import torch

REPORT_PERIOD = 20  # iterations
MAX_SKIPPED_IN_A_ROW = 60  # iterations; a float16 loss scale that starts far too high recovers sooner
AMP_DTYPES = {"float16": torch.float16, "bfloat16": torch.bfloat16}


@dataclass(frozen=True)
class TrainerOptions:
    """How to train.

    Args:
        checkpoint_period: iterations between checkpoints.
        amp_dtype: format of mixed precision, None for none; float16 comes with loss scaling.
        ema_decay: of an averaged copy of the weights, 0 for none.
        max_negative_share: a batch in which more pictures than this share have no box is left out, and so is one in
            which no picture has any.
        accumulation: parts in which a process computes its share of a batch.
        report_period: iterations between progress lines.
        deadline: time.monotonic() at which to save and stop, None for never.
        max_skipped_in_a_row: give up after that many steps in a row whose loss or gradient is not finite.
        max_bad_losses: iterations that may be skipped as their loss is not finite (a gradient, without float16); the
            next one ends the run.
    """

    checkpoint_period: int
    amp_dtype: torch.dtype | None = None
    ema_decay: float = 0.0
    max_negative_share: float = 0.1
    accumulation: int = 1
    report_period: int = REPORT_PERIOD
    deadline: float | None = None
    max_skipped_in_a_row: int = MAX_SKIPPED_IN_A_ROW
    max_bad_losses: int = 0

    def __post_init__(self) -> None:
        if self.checkpoint_period < 1:
            raise ValueError(f"checkpoint_period={self.checkpoint_period} (SOLVER.CHECKPOINT_PERIOD): must be positive")
        if self.accumulation < 1:
            raise ValueError(f"accumulation={self.accumulation} (SOLVER.GRADIENT_ACCUMULATION): must be positive")


def amp_dtype(cfg) -> torch.dtype | None:
    """Format of mixed precision that the configuration asks for, None for none."""
    if not cfg.SOLVER.USE_AMP:
        return None
    if cfg.SOLVER.AMP_DTYPE not in AMP_DTYPES:
        raise ValueError(f"SOLVER.AMP_DTYPE={cfg.SOLVER.AMP_DTYPE!r}: known are {', '.join(AMP_DTYPES)}")
    return AMP_DTYPES[cfg.SOLVER.AMP_DTYPE]


def checkpoint_period_of(cfg, max_iter: int, checkpoint_period: int) -> int:
    """The period in iterations. SOLVER.CHECKPOINT_PER_EPOCH, despite its name, counts epochs per checkpoint."""
    if cfg.SOLVER.CHECKPOINT_PER_EPOCH != -1 and cfg.SOLVER.MAX_EPOCH >= 1:
        return max(int(max_iter * cfg.SOLVER.CHECKPOINT_PER_EPOCH // cfg.SOLVER.MAX_EPOCH), 1)
    return checkpoint_period
