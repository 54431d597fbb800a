"""Fine-tuning a detector on one set of data: the checks, the training, the test and the file of results."""

import gc
import hashlib
import json
import logging
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import torch

from maskrcnn_benchmark.config import CfgNode, default_config
from maskrcnn_benchmark.data.build import dataset_names
from maskrcnn_benchmark.data.tuning_checks import check_training_parts, check_validation, few_shot_choices, parts_of
from maskrcnn_benchmark.engine.inference import plain_dataset
from maskrcnn_benchmark.engine.testing.evaluation_run import EvaluationOptions, Task, evaluate_tasks
from maskrcnn_benchmark.engine.testing.task_model import TaskModel
from maskrcnn_benchmark.engine.training.training_arguments import RESUME_AUTO, RESUME_NONE
from maskrcnn_benchmark.engine.training.training_report import REPORT_FILE
from maskrcnn_benchmark.engine.training.training_run import Loaders, RunOptions, make_loaders, run_training
from maskrcnn_benchmark.engine.tuning.tuning_modes import (
    report_freeze_options,
    trainable_names,
    tuning_highlevel_override,
)
from maskrcnn_benchmark.text.tokenizer import build_tokenizer
from maskrcnn_benchmark.utils import comm
from maskrcnn_benchmark.utils.checkpoint import TAG_FILE, read_tag
from maskrcnn_benchmark.utils.complete_files import write_complete
from maskrcnn_benchmark.utils.messages import first_of, shortened
from maskrcnn_benchmark.utils.miscellaneous import mkdir
from maskrcnn_benchmark.utils.precision_names import DEFAULT_PRECISION
from maskrcnn_benchmark.utils.random_state import seed_everything

Figures = dict[str, float]

RESULT_FILE, FEW_SHOT_FILE, CONFIG_FILE = "results.json", "few_shot_images.json", "config.yml"
BEST, FINAL = "model_best.pth", "model_final.pth"

COMPARED = ("MODEL", "DATASETS", "SOLVER", "INPUT", "AUGMENT")
"""Sections of the configuration that say what a checkpoint was trained for."""
MAY_CHANGE = frozenset(
    "MODEL.DEVICE DATASETS.TEST SOLVER.MAX_ITER SOLVER.MAX_EPOCH SOLVER.DATASET_LENGTH SOLVER.CHECKPOINT_PERIOD "
    "SOLVER.CHECKPOINT_PER_EPOCH SOLVER.STEP_PATIENCE SOLVER.AUTO_TERMINATE_PATIENCE SOLVER.CUDA_GRAPHS SOLVER.FSDP "
    "SOLVER.GRADIENT_ACCUMULATION SOLVER.MAX_BAD_LOSSES SOLVER.FIND_UNUSED_PARAMETERS SOLVER.TEST_WITH_INFERENCE "
    "SOLVER.MULTI_MAX_ITER".split()
)
"""Keys of them that a run may go on with other values of."""
UNRELATED = ("DATALOADER.NUM_WORKERS", "MODEL.DEVICE", "OUTPUT_DIR")  # to what comes out

logger = logging.getLogger("maskrcnn_benchmark.finetune")


@dataclass(frozen=True)
class TuningOptions:
    """How to fine-tune, beside the configuration.

    Args:
        run: of the training. skip_train: test the weights there are. skip_test: no test after training.
        tests_best: test the weights that were best in validation, not the last.
        test_sets: to test on; none for DATASETS.TEST.
    """

    run: RunOptions = field(default_factory=RunOptions)
    skip_train: bool = False
    skip_test: bool = False
    tests_best: bool = False
    test_sets: tuple[str, ...] = ()


@dataclass(frozen=True)
class TuningResult:
    """What came of it, the same on all processes.

    Attributes:
        is_finished: False where the run was stopped; calling again goes on.
        checkpoint: the weights that `test` is about, "" without any.
        start: validation figures before the first step, where asked for.
        history: [[iteration, validation figures], ...]; last: of the last weights; best: their highest score.
        test: figures by test set and name. test_folder: with a folder of files for each test set.
    """

    is_finished: bool
    checkpoint: str = ""
    start: Figures | None = None
    history: list[list[Any]] = field(default_factory=list)
    last: Figures | None = None
    best: float | None = None
    test: dict[str, Figures] = field(default_factory=dict)
    test_folder: str = ""


def fine_tune(cfg: CfgNode, device: torch.device, options: TuningOptions | None = None) -> TuningResult:
    """Trains MODEL.WEIGHT on DATASETS.TRAIN in the way of SOLVER.TUNING_HIGHLEVEL_OVERRIDE, and tests the result.

    The run goes on where it was stopped before, or returns what it left in OUTPUT_DIR/results.json if it has ended.
    The pictures of a few-shot training are noted in OUTPUT_DIR/few_shot_images.json. `cfg` is not changed.
    Raises: ValueError for data that cannot be trained on (see `data.tuning_checks`), and for a folder with a
        checkpoint of another run.
    """
    options = options or TuningOptions()
    cfg = _own_configuration(cfg)
    folder = Path(cfg.OUTPUT_DIR)
    key = _fingerprint(cfg, options)
    done = comm.broadcast_object(_stored_result(folder, key, options))
    if done is not None:
        logger.info("%s is done already (--resume none trains it anew, after a change of the data too)", folder)
        return done
    _check_folder(folder, cfg, options.run)
    mkdir(folder)
    _forget(folder, options)
    report_freeze_options(cfg)
    report: Mapping[str, Any] = {}
    start = None
    if not options.skip_train:
        seed_everything(cfg.SOLVER.SEED + comm.get_rank())
        trained = run_training(cfg, device, options.run, checked_loaders)
        if not trained.is_finished:
            return TuningResult(False)
        logger.debug("Trained: %s", ", ".join(trainable_names(trained.model)))
        start = trained.start_figures
        del trained  # before the test, or the next training, builds a model
        gc.collect()
        report = comm.broadcast_object(_read_json(folder / REPORT_FILE))
    checkpoint = comm.broadcast_object(str(_checkpoint_to_test(folder, cfg, options, report)))
    test_folder = folder / "eval" / Path(BEST).stem if Path(checkpoint).name == BEST else folder
    test = {} if options.skip_test else _test(cfg, device, checkpoint, options.test_sets, test_folder)
    result = TuningResult(
        True,
        checkpoint,
        start,
        report.get("history", []),
        report.get("accuracy"),
        report.get("best"),
        test,
        str(test_folder / "inference"),
    )
    if comm.is_main_process():
        write_json(folder / RESULT_FILE, {"key": key, **asdict(result)})
    return result


def checked_loaders(cfg: CfgNode) -> Loaders:
    """The data of a configuration, after a look at the annotations; notes the pictures of a few-shot training.

    Raises: ValueError, see `data.tuning_checks`.
    """
    loaders = make_loaders(cfg)
    language = cfg.MODEL.LANGUAGE_BACKBONE
    tokenizer, max_tokens = build_tokenizer(language.TOKENIZER_TYPE), language.MAX_QUERY_LEN
    parts = dict(zip(dataset_names(cfg, is_train=True), parts_of(loaders.train.dataset), strict=True))
    check_training_parts(parts, tokenizer, max_tokens)
    if loaders.validation is not None:
        name = dataset_names(cfg, is_train=False)[0]
        check_validation(name, plain_dataset(loaders.validation), parts, tokenizer, max_tokens)
    choices = few_shot_choices(parts, parts.values())
    if choices and comm.is_main_process():
        _note_choices(Path(cfg.OUTPUT_DIR), choices)
    for name, choice in choices.items():
        logger.info("Few-shot data %s: %d pictures, see %s", name, len(choice["image_ids"]), FEW_SHOT_FILE)
    if cfg.DATASETS.FEW_SHOT > 0 and (others := [name for name in parts if name not in choices]):
        logger.warning("DATASETS.FEW_SHOT has no effect on %s, which are used whole", ", ".join(others))
    if cfg.SOLVER.WARMUP_ITERS >= cfg.SOLVER.MAX_ITER:
        logger.warning(
            "SOLVER.WARMUP_ITERS %d of %d iterations: the learning rate does not reach SOLVER.BASE_LR%s",
            cfg.SOLVER.WARMUP_ITERS,
            cfg.SOLVER.MAX_ITER,
            ", nor does it wait for a plateau" if cfg.SOLVER.USE_AUTOSTEP else "",
        )
    return loaders


def _note_choices(folder: Path, choices: Mapping[str, Any]) -> None:
    """Writes them to FEW_SHOT_FILE, and says where a run goes on with other pictures than it began with."""
    path = folder / FEW_SHOT_FILE
    if (folder / TAG_FILE).is_file() and path.is_file() and _read_json(path) != json.loads(json.dumps(choices)):
        logger.warning(
            "The data were changed since this run began: the few-shot pictures are no longer those of %s. "
            "--resume none trains anew",
            path,
        )
    write_json(path, choices)


def write_json(path: Path, content: Mapping[str, Any]) -> None:
    """The file appears when it is complete."""
    write_complete(path, json.dumps(content, indent=1) + "\n")


def _own_configuration(cfg: CfgNode) -> CfgNode:
    if not cfg.OUTPUT_DIR:
        raise ValueError("OUTPUT_DIR is empty: fine-tuning needs a folder for its checkpoints")
    cfg = cfg.clone()
    cfg.defrost()
    tuning_highlevel_override(cfg)
    cfg.freeze()
    return cfg


def _fingerprint(cfg: CfgNode, options: TuningOptions) -> str:
    """Of everything that the result depends on."""
    values = {name: text for name, text in _values(cfg).items() if name not in UNRELATED}
    flags = [options.skip_train, options.skip_test, options.tests_best, options.test_sets, options.run.measures_start]
    return hashlib.sha256(json.dumps([values, flags], sort_keys=True).encode()).hexdigest()


def _stored_result(folder: Path, key: str, options: TuningOptions) -> TuningResult | None:
    """What an earlier call of the same run left; only the first process looks."""
    path = folder / RESULT_FILE
    trains_on = options.run.resumes_weights_only and not options.skip_train  # from the last weights, counting anew
    if not comm.is_main_process() or options.run.resume != RESUME_AUTO or trains_on or not path.is_file():
        return None
    try:
        content = _read_json(path)
        if content.pop("key", None) != key:
            return None
        result = TuningResult(**content)
    except (ValueError, TypeError, AttributeError) as error:
        logger.warning("%s cannot be read (%s): testing anew", path, error)
        return None
    name = Path(result.checkpoint).name
    if name in (BEST, FINAL) and not (folder / name).is_file():
        logger.warning("%s is about %s, which is gone: testing what there is", path, name)
        return None
    return result


def _forget(folder: Path, options: TuningOptions) -> None:
    """Removes what a run that is stopped could be mistaken for: an earlier result, the tag of its checkpoint, and the
    choice of its pictures."""
    if comm.is_main_process():
        (folder / RESULT_FILE).unlink(missing_ok=True)
        if options.run.resume == RESUME_NONE and not options.skip_train:
            for name in (TAG_FILE, FEW_SHOT_FILE):
                (folder / name).unlink(missing_ok=True)
    comm.synchronize()


def _read_json(path: Path) -> dict[str, Any]:
    return json.loads(path.read_text(encoding="utf-8")) if comm.is_main_process() else {}


def check_same_run(cfg: CfgNode) -> None:
    """Raises: ValueError where `fine_tune` would go on from a checkpoint in OUTPUT_DIR that is of another run."""
    _check_folder(Path(cfg.OUTPUT_DIR), _own_configuration(cfg), RunOptions())


def _check_folder(folder: Path, cfg: CfgNode, run: RunOptions) -> None:
    """Raises ValueError where training would go on from a checkpoint of another run."""
    differences = comm.broadcast_object(_differences(folder, cfg, run))
    if differences:
        raise ValueError(
            f"{folder} has a checkpoint of another run ({first_of(differences, 5)}): give another folder (OUTPUT_DIR, "
            "--output), remove this one, or start afresh with --resume none (tools/finetune.py)"
        )


def _differences(folder: Path, cfg: CfgNode, run: RunOptions) -> list[str]:
    """What the configuration of the checkpoint to go on from says otherwise."""
    is_resumed = run.resume == RESUME_AUTO and not run.resumes_weights_only and (folder / TAG_FILE).is_file()
    if not comm.is_main_process() or not is_resumed or not (folder / CONFIG_FILE).is_file():
        return []
    stored = default_config()
    stored.merge_from_file(folder / CONFIG_FILE)
    before, now = _values(stored), _values(cfg)
    compared = [name for name in now if name.split(".")[0] in COMPARED and name not in MAY_CHANGE]
    changed = [name for name in compared if before.get(name) != now[name]]
    return [f"{name} was {shortened(str(before.get(name)), 60)}, is {shortened(now[name], 60)}" for name in changed]


def _values(cfg: CfgNode) -> dict[str, str]:
    """Every key of the configuration and its value as JSON, in which tuples are lists."""
    values: dict[str, str] = {}

    def add(node: Mapping[str, Any], prefix: str) -> None:
        for name, value in node.items():
            if isinstance(value, CfgNode) and prefix + name != "DATASETS.REGISTER":
                add(value, f"{prefix}{name}.")
            else:
                values[prefix + name] = json.dumps(value, default=str, sort_keys=True)

    add(cfg, "")
    return values


def _checkpoint_to_test(folder: Path, cfg: CfgNode, options: TuningOptions, report: Mapping[str, Any]) -> Path | str:
    if options.tests_best:
        is_of_this_run = options.skip_train or report.get("best") is not None
        if is_of_this_run and (folder / BEST).is_file():
            return folder / BEST
        logger.warning("There is no %s of this run, as nothing was measured: testing the last weights", folder / BEST)
    if (folder / FINAL).is_file():
        return folder / FINAL
    return read_tag(folder / TAG_FILE) if (folder / TAG_FILE).is_file() else cfg.MODEL.WEIGHT


def _test(
    cfg: CfgNode, device: torch.device, checkpoint: str, test_sets: tuple[str, ...], folder: Path
) -> dict[str, Figures]:
    """The figures of a checkpoint by test set and name; files go to folder/inference/TEST SET."""
    cfg = cfg.clone()
    cfg.defrost()
    if test_sets:
        cfg.DATASETS.TEST = test_sets
    cfg.freeze()
    if not dataset_names(cfg, is_train=False):
        raise ValueError("DATASETS.TEST is empty: name a set to test on, or use --skip-test")
    model = TaskModel(cfg, checkpoint or None, device, DEFAULT_PRECISION)
    options = EvaluationOptions(weight=checkpoint)
    return evaluate_tasks([Task("", cfg)], model, folder, options)[""]
