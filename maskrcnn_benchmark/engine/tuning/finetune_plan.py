"""Which trainings a fine-tuning command asks for: their configurations and folders."""

import argparse
import glob
import logging
import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from maskrcnn_benchmark.config import CfgNode, default_config
from maskrcnn_benchmark.config.loading import REPOSITORY_ROOT, resolve_config_file
from maskrcnn_benchmark.engine.tuning.finetune_arguments import Shots, parse_all_shots, parse_seeds
from maskrcnn_benchmark.engine.tuning.tuning_modes import tuning_highlevel_override
from maskrcnn_benchmark.utils.checkpoint import TAG_FILE, read_tag
from maskrcnn_benchmark.utils.file_names import distinct_names

TEST_SET = "test"
"""Name of the set of a task that is measured once, at the end."""

logger = logging.getLogger("maskrcnn_benchmark.finetune")


@dataclass(frozen=True)
class PlannedTuning:
    """One training of a command.

    Attributes:
        number: of the task, from 1; task: its name, that of its file.
        shots, seed: None where the configuration says it.
        cfg: everything but what the data decide; OUTPUT_DIR is the folder of this training.
    """

    number: int
    task: str
    shots: Shots | None
    seed: int | None
    cfg: CfgNode

    @property
    def folder(self) -> Path:
        """Where the training leaves its files."""
        return Path(self.cfg.OUTPUT_DIR)

    @property
    def title(self) -> str:
        """For messages."""
        shots = "" if self.shots is None else f", {self.shots.shots or 'all'} shots"
        return f"task {self.number} ({self.task}){shots}{'' if self.seed is None else f', seed {self.seed}'}"


def base_configuration(args: argparse.Namespace, opts: Sequence[str]) -> CfgNode:
    """The configuration of the model with the entries of the command line. Raises: ValueError without OUTPUT_DIR."""
    cfg = default_config()
    cfg.merge_from_file(args.config_file)
    cfg.merge_from_list(list(opts))
    if not cfg.OUTPUT_DIR:
        raise ValueError("OUTPUT_DIR is empty: fine-tuning needs a folder for its checkpoints")
    return cfg


def plan_tunings(args: argparse.Namespace, opts: Sequence[str], base: CfgNode) -> list[PlannedTuning]:
    """The trainings of a command: for every number of shots, task and seed, in this order.

    A later source wins: the model's configuration, that of the task, the three numbers of
    --custom_shot_and_epoch_and_general_copy, the command line's entries, --shuffle_seeds, the names of prepared data.
    Folders are OUTPUT_DIR/ft_task_NUMBER[_seed_SEED], with several numbers of shots in OUTPUT_DIR/shots_NUMBER.

    Raises: ValueError for flags that cannot be read; FileNotFoundError for a pattern that no file has.
    """
    all_shots, seeds = parse_all_shots(args.custom_shot_and_epoch_and_general_copy), parse_seeds(args.shuffle_seeds)
    if args.use_prepared_data and all_shots == [None]:
        raise ValueError("--use_prepared_data needs --custom_shot_and_epoch_and_general_copy, which names the sets")
    files: list[Path | None] = [*task_files(args.ft_tasks)] or [None]
    names = distinct_names([file or args.config_file for file in files], "/")
    planned = []
    for shots in all_shots:
        output = Path(base.OUTPUT_DIR, f"shots_{shots.shots}" if shots is not None and len(all_shots) > 1 else "")
        for number, file in enumerate(files, start=1):
            for seed in seeds:
                cfg = _configuration(base, file, shots, seed, opts, args.use_prepared_data)
                cfg.OUTPUT_DIR = str(output / f"ft_task_{number}{'' if seed is None else f'_seed_{seed}'}")
                cfg.freeze()
                planned.append(PlannedTuning(number, names[number - 1], shots, seed, cfg))
    return planned


def task_files(patterns: str) -> list[Path]:
    """The files of a comma list of patterns, each expanded and sorted; none for an empty list. A file that several
    patterns name comes once.

    Raises: FileNotFoundError for a pattern without a file.
    """
    files: dict[str, Path] = {}
    for pattern in filter(None, (part.strip() for part in patterns.split(","))):
        found = sorted(glob.glob(pattern)) or sorted(glob.glob(str(REPOSITORY_ROOT / pattern)))
        if not found:
            found = [str(resolve_config_file(pattern))]  # an error that says where it looked
        for path in found:
            files.setdefault(os.path.abspath(path), Path(path))
    return [*files.values()]


def _configuration(
    base: CfgNode, file: Path | None, shots: Shots | None, seed: int | None, opts: Sequence[str], is_prepared: bool
) -> CfgNode:
    cfg = base.clone()
    cfg.defrost()
    if file is not None:
        cfg.merge_from_file(file)
    if shots is not None:
        cfg.SOLVER.MAX_EPOCH, cfg.DATASETS.GENERAL_COPY = shots.epochs, shots.copies
        cfg.DATASETS.FEW_SHOT = 0 if is_prepared else shots.shots
    cfg.merge_from_list(list(opts))
    _warn_of_overridden(cfg, shots, is_prepared)
    if seed is not None:
        cfg.DATASETS.SHUFFLE_SEED = seed
    if is_prepared and shots is not None and shots.shots:
        cfg.DATASETS.TRAIN = (_prepared_name(cfg.DATASETS.TRAIN, shots.shots, cfg),)
        validation_shots = shots.shots if shots.validation_shots is None else shots.validation_shots
        if validation_shots:  # 0, as for training: all pictures
            cfg.DATASETS.TEST = (_prepared_name(cfg.DATASETS.TEST, validation_shots, cfg),)
    cfg.MODEL.WEIGHT = resolve_last_checkpoint(cfg.MODEL.WEIGHT)
    return tuning_highlevel_override(cfg)


def _prepared_name(names: Sequence[str], shots: int, cfg: CfgNode) -> str:
    if not names:
        raise ValueError("--use_prepared_data: DATASETS.TRAIN and DATASETS.TEST must name the sets to choose from")
    return f"{names[0]}_{shots}_{cfg.DATASETS.SHUFFLE_SEED}"


def _warn_of_overridden(cfg: CfgNode, shots: Shots | None, is_prepared: bool) -> None:
    """Entries of the command line win over the three numbers, as in the original; that is easily overlooked."""
    if shots is None:
        return
    wanted = {"SOLVER.MAX_EPOCH": shots.epochs, "DATASETS.GENERAL_COPY": shots.copies}
    if not is_prepared:
        wanted["DATASETS.FEW_SHOT"] = shots.shots
    for name, value in wanted.items():
        section, key = name.split(".")
        if cfg[section][key] != value:
            logger.warning("%s %s of the command line replaces %s of the flag", name, cfg[section][key], value)


def resolve_last_checkpoint(weight: str) -> str:
    """`FOLDER/model_last_checkpoint.pth` stands for the checkpoint that FOLDER/last_checkpoint names."""
    path = Path(weight or "")
    if TAG_FILE not in path.name or path.is_file() or not (path.parent / TAG_FILE).is_file():
        return weight
    return str(read_tag(path.parent / TAG_FILE))


def sets_to_test(cfg: CfgNode, best_only: bool, both: bool) -> tuple[str, ...]:
    """Names of the sets that the flags ask to measure after training: DATASETS.TEST, or the set "test" where the
    configuration has one."""
    names = (cfg.DATASETS.TEST,) if isinstance(cfg.DATASETS.TEST, str) else tuple(cfg.DATASETS.TEST)
    if TEST_SET not in cfg.DATASETS.REGISTER or not (best_only or both) or TEST_SET in names:
        return names
    return (*names, TEST_SET) if both else (TEST_SET,)
