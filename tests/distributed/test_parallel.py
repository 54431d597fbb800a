"""Two processes against one with the double batch, as copies of the model and as its shards."""

import shutil
from pathlib import Path

import pytest
import torch
from tiny_detector import make_text_folder, positive_rows, random_images, target, tiny_config
from torch import nn
from two_processes import run_two

from maskrcnn_benchmark.engine.trainer import Trainer, TrainerOptions, amp_dtype
from maskrcnn_benchmark.engine.training.parallel import ParallelOptions, distribute, gathered
from maskrcnn_benchmark.engine.training.training_run import record_steps
from maskrcnn_benchmark.modeling.detector import build_detection_model
from maskrcnn_benchmark.solver import make_lr_scheduler, make_optimizer
from maskrcnn_benchmark.utils import comm
from maskrcnn_benchmark.utils.checkpoint import Checkpointer
from maskrcnn_benchmark.utils.weight_conversion import unwrap_model
from maskrcnn_benchmark.utils.weight_files import read_checkpoint

CAPTION = "red cup . dog"
BOXES = [
    [1, 1, 2, 1],
    [2, 1, 0, 0],
    [1, 2, 1, 1],
    [0, 0, 3, 1],
]  # of the four pictures of an iteration; a half may be empty


def batches(rank: int, world_size: int) -> list[tuple]:
    """The part of every iteration's four pictures that belongs to a process."""
    parts = []
    for iteration, counts in enumerate(BOXES):
        images = random_images(*[(64, 64)] * 4, seed=iteration)
        generator = torch.Generator().manual_seed(iteration)
        targets = []
        for count in counts:
            corners = torch.rand(count, 2, generator=generator) * 20
            targets.append(target(torch.cat((corners, corners + 30), dim=1), (64, 64)))
            targets[-1].add_field("caption", CAPTION)
        own = slice(rank * 4 // world_size, (rank + 1) * 4 // world_size)
        images.tensors, images.image_sizes = images.tensors[own], images.image_sizes[own]
        rows = positive_rows([[1 + i % 2] for i in range(sum(counts))], 48)
        rows = rows[sum(counts[: own.start]) : sum(counts[: own.stop])]
        parts.append((images, targets[own], None, rows, None, torch.zeros(len(targets[own]), 48)))
    return parts


def start_training(rank: int, folder: str, options: tuple, *, resume: bool = False) -> Trainer:
    """A trainer of the tiny detector; every process starts from weights of its own."""
    torch.manual_seed(rank)
    common = ("SOLVER.BASE_LR", 0.05, "SOLVER.LANG_LR", 0.05, "SOLVER.MAX_ITER", len(BOXES), "SOLVER.WARMUP_ITERS", 2)
    cfg = tiny_config(Path(folder, "text"), *common, *options)
    device = torch.device("cpu")
    model = build_detection_model(cfg)
    for module in model.modules():
        if isinstance(module, nn.Dropout):
            module.p = 0.0
        elif hasattr(module, "drop_prob"):
            module.drop_prob = 0.0
        elif isinstance(getattr(module, "dropout", None), float):
            module.dropout = 0.0
    model.train()
    record_steps(model, cfg)
    model, trained, ema_module = distribute(model, device, ParallelOptions.from_config(cfg), with_average=True)
    optimizer = make_optimizer(cfg, model)
    scheduler = make_lr_scheduler(cfg, optimizer)
    checkpointer = Checkpointer(model, optimizer, scheduler, Path(folder, "out"))
    arguments = {"iteration": 0, **(checkpointer.load() if resume else {})}
    return Trainer(
        trained,
        batches(rank, comm.get_world_size()),
        optimizer,
        scheduler,
        checkpointer,
        device,
        TrainerOptions(checkpoint_period=2, amp_dtype=amp_dtype(cfg), ema_decay=0.5, max_negative_share=0.5),
        arguments,
        ema_module=ema_module,
    )


def train(rank: int, folder: str, options: tuple, resume: bool = False) -> dict:
    """Trains to the end; returns what the progress line knew."""
    trainer = start_training(rank, folder, options, resume=resume)
    if resume:
        trainer.data_loader = trainer.data_loader[trainer.iteration :]
    evaluate_in_parts(trainer, trainer.model)
    assert trainer.train()
    evaluate_unevenly(trainer)
    evaluate_in_parts(trainer, trainer.ema.ema)
    return {"skipped": trainer.monitor.skipped, "iteration": trainer.iteration}


def evaluate_in_parts(trainer: Trainer, model: nn.Module) -> None:
    """A part of the model comes before the whole; nothing stays of that, neither for evaluations nor for training."""
    images, targets, *_ = trainer.data_loader[0]
    model.eval()
    with gathered(model), torch.no_grad():
        unwrap_model(model).backbone(images.tensors)
        unwrap_model(model)(images, captions=[CAPTION] * len(targets), positive_map={1: [1, 2]})


def evaluate_unevenly(trainer: Trainer) -> None:
    """Rank 0 has no batch to evaluate, rank 1 has one; nobody waits for the other."""
    images, targets, *_ = trainer.data_loader[0]
    trainer.model.eval()
    before = [comm.local_part(parameter).clone() for parameter in trainer.model.parameters()]
    with gathered(trainer.model), torch.no_grad():
        for _ in range(comm.get_rank()):
            found = unwrap_model(trainer.model)(images, captions=[CAPTION] * len(targets), positive_map={1: [1, 2]})
            assert len(found) == len(targets)
    after = [comm.local_part(parameter) for parameter in trainer.model.parameters()]
    assert all(torch.equal(one, other) for one, other in zip(before, after, strict=True))


def assert_same_training(one: dict, other: dict, start: dict, tolerance: float = 2e-3) -> None:
    """Checkpoints agree to within a small share of what training changed."""
    for entry in ("model", "model_ema"):
        assert one[entry].keys() == other[entry].keys()
        for name, value in one[entry].items():
            if value.is_floating_point():
                change = (value - start[name]).norm() + 1e-3 * value.norm().clamp(min=0.1)
                assert (other[entry][name] - value).norm() <= tolerance * change, (entry, name)


def assert_same_optimizer(one: dict, other: dict) -> None:
    """The layout is the same, whoever saved it."""
    assert [group["params"] for group in one["param_groups"]] == [group["params"] for group in other["param_groups"]]
    assert one["state"].keys() == other["state"].keys()
    for index, entries in one["state"].items():
        for name, value in entries.items():
            assert (
                type(other["state"][index][name]) is torch.Tensor and value.shape == other["state"][index][name].shape
            )


@pytest.fixture
def folder(tmp_path):
    make_text_folder(tmp_path / "text")
    return tmp_path


def one_process(folder: Path) -> tuple[dict, dict]:
    """(checkpoint at the end, first weights) of one process with all pictures."""
    start = {name: value.clone() for name, value in start_training(0, str(folder), SGD).model.state_dict().items()}
    train(0, str(folder), SGD)
    (folder / "out").rename(folder / "alone")
    return read_checkpoint(folder / "alone" / "model_final.pth"), start


SGD = (
    "SOLVER.USE_AMP",
    False,
    "SOLVER.OPTIMIZER",
    "SGD",
    "SOLVER.CLIP_GRADIENTS.ENABLED",
    True,
    "SOLVER.CLIP_GRADIENTS.CLIP_VALUE",
    1.0,
)


NO_CHECKPOINTS = ("MODEL.DYHEAD.USE_CHECKPOINT", False, "MODEL.BACKBONE.USE_CHECKPOINT", False)
FROZEN = tuple(item for part in ("BACKBONE", "FPN", "LANGUAGE_BACKBONE") for item in (f"MODEL.{part}.FREEZE", True))
PROMPT = (*FROZEN, "MODEL.RPN.FREEZE", True, "MODEL.DYHEAD.FUSE_CONFIG.ADD_LINEAR_LAYER", True)
RUNS = {  # name: options, whether to go on from the second iteration of the single process
    "copies": (("SOLVER.FSDP", False), False),
    "shards": (("SOLVER.FSDP", True), False),
    "recorded": (("SOLVER.CUDA_GRAPHS", True, *NO_CHECKPOINTS), False),
    "resumed shards": (("SOLVER.FSDP", True), True),
    "rounded shards": (("SOLVER.FSDP", True, "SOLVER.USE_AMP", True, "SOLVER.OPTIMIZER", "ADAMW"), False),
    "learnt prompt": (PROMPT, False),
    "learnt prompt of shards": ((*PROMPT, "SOLVER.FSDP", True), False),
    "linear probe": ((*FROZEN, "MODEL.LINEAR_PROB", True), False),
}


def train_as_named(rank: int, folder: str, names: list[str]) -> dict[str, dict]:
    """Some runs of the table by two processes; their outcomes are in folders of those names."""
    results = {}
    for name in names:
        options, resume = RUNS[name]
        if rank == 0 and resume:
            copy_second_iteration(Path(folder, "alone"), Path(folder, "out"))
        comm.synchronize()
        results[name] = train(rank, folder, (*SGD, *options), resume)
        comm.synchronize()
        if rank == 0:
            Path(folder, "out").rename(Path(folder, name))
        comm.synchronize()
    return results


def copy_second_iteration(source: Path, goal: Path) -> None:
    """Makes the checkpoint in mid-run the last one of a new output folder."""
    goal.mkdir()
    shutil.copy(source / "model_0000002.pth", goal)
    (goal / "last_checkpoint").write_text("model_0000002.pth")


def test_two_processes_equal_one(folder):
    """Rank 1 has no boxes in the second iteration and rank 0 none in the fourth."""
    alone, start = one_process(folder)
    names = ["copies", "shards", "recorded", "resumed shards"]
    for results in run_two(train_as_named, folder, str(folder), names):
        assert {name: result["skipped"] for name, result in results.items()} == dict.fromkeys(names, 0)
    for name in names:
        together = read_checkpoint(folder / name / "model_final.pth")
        assert_same_training(alone, together, start)
        assert any(not torch.equal(value, start[entry]) for entry, value in together["model"].items())
        assert_same_optimizer(alone["optimizer"], together["optimizer"])

    copy_second_iteration(folder / "shards", folder / "out")
    train(0, str(folder), SGD, resume=True)
    assert_same_training(read_checkpoint(folder / "out" / "model_final.pth"), alone, start)


@pytest.mark.slow
def test_shards_in_mixed_precision(folder):
    """The loss scale is too high at first; both processes leave out the same steps."""
    one, other = run_two(train_as_named, folder, str(folder), ["rounded shards"])
    assert one == other and one["rounded shards"]["skipped"] < len(BOXES)
    checkpoint = read_checkpoint(folder / "rounded shards" / "model_final.pth")
    assert checkpoint["scaler"]["scale"] == 2.0 ** (16 - one["rounded shards"]["skipped"])
    assert all(torch.isfinite(value).all() for value in checkpoint["model"].values())


@pytest.mark.slow
def test_frozen_parts(folder):
    """What is not trained does not keep the processes waiting for its gradients."""
    names = ["learnt prompt", "learnt prompt of shards", "linear probe"]
    run_two(train_as_named, folder, str(folder), names)
    prompt, of_shards, probe = (read_checkpoint(folder / name / "model_final.pth") for name in names)
    assert len(prompt["optimizer"]["state"]) == len(of_shards["optimizer"]["state"]) == 1
    trained = "rpn.tunable_linear.weight"
    assert prompt["model"][trained].abs().max() > 0
    torch.testing.assert_close(prompt["model"][trained], of_shards["model"][trained], rtol=1e-3, atol=1e-6)
    assert {group["name"].split(".")[0] for group in probe["optimizer"]["param_groups"]} == {"rpn"}
