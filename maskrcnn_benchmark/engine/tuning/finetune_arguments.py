"""The flags of a fine-tuning command. Reading a command line needs no PyTorch, so neither does this module."""

import argparse
from dataclasses import dataclass

from maskrcnn_benchmark.engine.common_arguments import add_local_rank, add_max_minutes
from maskrcnn_benchmark.engine.training.training_arguments import RESUME_AUTO, RESUME_NONE

COPY_ONLY = 10000
"""Number of shots with which nothing is trained: the pre-trained weights become the result."""

_SHOTS_FORM = "SHOTS_EPOCHS_COPIES, such as 3_200_4, or SHOTS_EPOCHS_COPIES_VALIDATIONSHOTS"


@dataclass(frozen=True)
class Shots:
    """Length of a few-shot training.

    Args:
        shots: pictures per category (see DATASETS.FEW_SHOT_RULE), 0 for all.
        epochs: SOLVER.MAX_EPOCH. copies: DATASETS.GENERAL_COPY, how often an epoch shows each picture.
        validation_shots: of prepared validation data, 0 for all; None for as many as `shots`.
    """

    shots: int
    epochs: int
    copies: int
    validation_shots: int | None = None

    @classmethod
    def parse(cls, text: str) -> "Shots":
        """Reads "3_200_4" or "3_200_4_1". Raises: ValueError for anything else."""
        parts = text.strip().split("_")
        if len(parts) not in (3, 4) or not all(part.isdecimal() for part in parts):
            raise ValueError(f"--custom_shot_and_epoch_and_general_copy {text!r}: give {_SHOTS_FORM}")
        shots = cls(*map(int, parts))
        if shots.epochs < 1 or shots.copies < 1:
            raise ValueError(
                f"--custom_shot_and_epoch_and_general_copy {text!r}: {shots.epochs} epochs of {shots.copies} copies "
                "train nothing; give positive numbers"
            )
        return shots


def parse_all_shots(text: str | None) -> list[Shots | None]:
    """The trainings of a comma list, one after the other; [None] without a list: as the configuration says."""
    if text is None:
        return [None]
    parsed = [Shots.parse(part) for part in text.split(",")]
    if repeated := sorted({one.shots for one in parsed if sum(other.shots == one.shots for other in parsed) > 1}):
        raise ValueError(f"--custom_shot_and_epoch_and_general_copy {text!r} asks for {repeated[0]} shots twice")
    return [*parsed]


def parse_seeds(text: str | None) -> list[int | None]:
    """The seeds of a comma list; [None] without a list. Raises: ValueError for what is no list of different numbers."""
    if text is None:
        return [None]
    parts = [part.strip() for part in text.split(",")]
    if not all(part.isdecimal() for part in parts) or len(set(map(int, parts))) < len(parts):
        raise ValueError(f"--shuffle_seeds {text!r}: give different numbers with commas between them, such as 3,30,300")
    return [int(part) for part in parts]


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The flags of a fine-tuning command; the configuration entries KEY VALUE ... are not among them."""
    parser.add_argument("--config-file", required=True, metavar="FILE", help="configuration of the model")
    parser.add_argument(
        "--ft-tasks", default="", metavar="GLOB,GLOB",
        help="configurations of the data, fine-tuned on one after the other, each from the same weights; patterns are "
        "expanded and sorted. Default: the data of --config-file",
    )  # fmt: skip
    add_local_rank(parser)
    parser.add_argument(
        "--custom_shot_and_epoch_and_general_copy", metavar="S_E_C[_V]",
        help="pictures per category (0: all), epochs, and how often an epoch shows each picture, such as 3_200_4; V: "
        "pictures per category of prepared validation data. Several with commas are trained one after the other. "
        f"{COPY_ONLY}_1_1 trains nothing and makes the pre-trained weights the result",
    )  # fmt: skip
    parser.add_argument(
        "--shuffle_seeds", metavar="N,N",
        help="seeds of the choice of pictures (DATASETS.SHUFFLE_SEED), trained one after the other, such as 3,30,300",
    )  # fmt: skip
    parser.add_argument(
        "--use_prepared_data", action="store_true",
        help="take the pictures from prepared sets TRAIN_SHOTS_SEED and TEST_SHOTS_SEED, not by DATASETS.FEW_SHOT",
    )  # fmt: skip
    parser.add_argument("--skip-train", action="store_true", help="test the weights without training")
    parser.add_argument("--skip-test", action="store_true", help="no test after training")
    parser.add_argument(
        "--skip_optimizer_resume", action="store_true",
        help="of a checkpoint to go on from, take the weights alone and start counting anew",
    )  # fmt: skip
    parser.add_argument(
        "--evaluate_only_best_on_test", action="store_true",
        help='test the weights that were best in validation, not the last, on the set "test" where there is one',
    )  # fmt: skip
    parser.add_argument(
        "--push_both_val_and_test", action="store_true", help='test on DATASETS.TEST and on the set "test"'
    )
    parser.add_argument("--keep_testing", action="store_true", help="accepted; each result is tested once")
    parser.add_argument(
        "--measure_start", action="store_true", help="measure the weights before the first step, too, to see a fall"
    )
    parser.add_argument(
        "--resume", default=RESUME_AUTO, choices=(RESUME_AUTO, RESUME_NONE),
        help="auto: go on where the same command stopped; none: start afresh. Default: %(default)s",
    )  # fmt: skip
    add_max_minutes(parser)
    parser.add_argument("--use-tensorboard", action="store_true", help="write event files to the folder of every task")
