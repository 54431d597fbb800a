"""Two processes that compute their batches in parts exchange gradients once per step."""

import contextlib

import torch
import torch.distributed
from torch import nn
from torch.distributed.algorithms.ddp_comm_hooks.default_hooks import allreduce_hook
from torch.distributed.fsdp import fully_shard
from two_processes import run_two

from maskrcnn_benchmark.engine.training.accumulation import TrainingBatch, backward_in_parts
from maskrcnn_benchmark.engine.training.guarded_step import GuardedStep
from maskrcnn_benchmark.structures.bounding_box import BoxList
from maskrcnn_benchmark.structures.image_list import ImageList

STEPS = 3


class Slope(nn.Module):
    """A linear layer on the mean colour, with the mean squared error to the number of boxes."""

    def __init__(self):
        super().__init__()
        self.layer = nn.Linear(3, 1)

    def forward(self, images, targets) -> dict[str, torch.Tensor]:
        wanted = torch.tensor([float(len(target)) for target in targets])
        return {"loss": (self.layer(images.tensors.mean((2, 3))).squeeze(1) - wanted).square().mean()}


def batch(rank: int, step: int) -> TrainingBatch:
    generator = torch.Generator().manual_seed(10 * step + rank)
    images = ImageList(torch.rand(4, 3, 8, 8, generator=generator), [(8, 8)] * 4)
    targets = [BoxList([[0.0, 0.0, 3.0, 3.0]] * (number + rank), (8, 8)) for number in range(4)]
    return TrainingBatch(images, targets, [], None, None)


def trained(parts: int, rank: int, **options) -> tuple[list[torch.Tensor], int]:
    """The weights after some steps, and the number of exchanges; copies of the model average their gradients."""
    torch.manual_seed(0)
    model = nn.parallel.DistributedDataParallel(Slope(), **options)
    exchanges = []

    def count(state: object, bucket) -> torch.futures.Future[torch.Tensor]:
        exchanges.append(bucket.index())
        return allreduce_hook(torch.distributed.group.WORLD, bucket)

    model.register_comm_hook(None, count)
    return steps(model, parts, rank), len(exchanges)


def trained_shards(parts: int, rank: int) -> list[torch.Tensor]:
    """The weights after the same steps of one model in shards."""
    torch.manual_seed(0)
    model = fully_shard(Slope())
    return [weight.full_tensor() for weight in steps(model, parts, rank)]


def steps(model: nn.Module, parts: int, rank: int) -> list[torch.Tensor]:
    """Trains in place; the weights."""
    step = GuardedStep(torch.optim.SGD(model.parameters(), lr=0.1), torch.device("cpu"), use_loss_scale=False)
    for number in range(STEPS):
        step.begin()
        backward_in_parts(model, batch(rank, number), parts, step, contextlib.nullcontext)
        step.finish()
    return [weight.detach().clone() for weight in model.parameters()]


def compare(rank: int) -> None:
    """Body of one process."""
    whole, _ = trained(1, rank)
    for parts, is_static in ((2, False), (4, True)):
        added, exchanges = trained(parts, rank, static_graph=is_static)
        assert exchanges == STEPS + 1, f"{exchanges} exchanges, one per step and one to learn the graph"
        for one, other in zip(whole, added, strict=True):
            torch.testing.assert_close(other, one)
    for one, other in zip(whole, trained_shards(2, rank), strict=True):
        torch.testing.assert_close(other, one)


def test_gradients_are_exchanged_once_per_step(tmp_path):
    run_two(compare, tmp_path)
