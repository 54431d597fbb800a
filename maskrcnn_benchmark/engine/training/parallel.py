"""One training step on several processes: copies of the model that average their gradients, or one model in shards."""

import logging
from collections.abc import Iterator
from contextlib import contextmanager
from copy import deepcopy
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import nn
from torch.distributed.device_mesh import DeviceMesh, init_device_mesh
from torch.distributed.fsdp import FSDPModule, fully_shard
from torch.nn.parallel import DistributedDataParallel

from maskrcnn_benchmark.modeling.detector.generalized_vl_rcnn import GeneralizedVLRCNN
from maskrcnn_benchmark.utils import comm

logger = logging.getLogger(__name__)

# Classes, and classes derived from them, whose parameters are gathered together, right before they are needed.
SHARDED_BLOCKS = frozenset(
    {
        *("SwinTransformerBlock", "PatchMerging"),
        *("BertLayer", "RobertaLayer", "ResidualAttentionBlock"),  # of the language backbone
        *("VLFuse", "BertEncoderLayer", "DyConv"),  # of the head's tower
    }
)


@dataclass(frozen=True)
class ParallelOptions:
    """How the processes of a run share the work.

    Args:
        is_sharded: every process keeps a part of the weights, gradients and optimizer states; otherwise all of them.
        find_unused_parameters: parameters without a gradient differ from one iteration to the next.
        broadcast_buffers: copy the buffers of rank 0 to the others in every iteration, as batch normalisation needs.
    """

    is_sharded: bool = False
    find_unused_parameters: bool = False
    broadcast_buffers: bool = False

    @classmethod
    def from_config(cls, cfg) -> "ParallelOptions":
        return cls(
            is_sharded=cfg.SOLVER.FSDP,
            find_unused_parameters=cfg.SOLVER.FIND_UNUSED_PARAMETERS,
            broadcast_buffers=cfg.MODEL.BACKBONE.USE_BN,
        )


class DistributedModel(NamedTuple):
    """A model as the processes of a run train it.

    Attributes:
        model: itself, for the optimizer, the checkpoint and evaluation; its parameters may be shards.
        trained: what to call in a training step; the model, or a wrapper of it.
        ema_module: to hold averaged weights, where a sharded model cannot be copied.
    """

    model: nn.Module
    trained: nn.Module
    ema_module: nn.Module | None = None


def distribute(
    model: nn.Module, device: torch.device, options: ParallelOptions, *, with_average: bool = False
) -> DistributedModel:
    """Makes a model of the processes of this run; one process trains it as it is. The optimizer comes afterwards.

    Args:
        with_average: averaged weights will be kept.
    """
    if comm.get_world_size() == 1:
        return DistributedModel(model, model)
    if getattr(model, "recorded_training", None) is not None:
        # A recorded backward pass gives all gradients at its end, where one exchange is faster than many.
        comm.broadcast_module(model)
        return DistributedModel(model, model)
    if options.is_sharded:
        model, copied = shard(model, device, with_copy=with_average)
        return DistributedModel(model, model, copied)
    return DistributedModel(model, replicate(model, device, options))


def exchanges_gradients(model: nn.Module) -> bool:
    """Whether the processes average the gradients of this model in its backward pass, as wrappers of PyTorch do."""
    return isinstance(model, DistributedDataParallel | FSDPModule)


def replicate(model: nn.Module, device: torch.device, options: ParallelOptions) -> nn.Module:
    """Wraps a model so that its gradients are means over all processes; all start from the weights of rank 0.

    Freeze what is to be frozen before. The vision-language detector uses the same parameters in every iteration,
    whatever the data are, so its graph counts as static: nothing is searched for, and parameters that never get a
    gradient do no harm. Other models are taken to be so unless `find_unused_parameters` says otherwise.
    """
    is_static = isinstance(model, GeneralizedVLRCNN) or not options.find_unused_parameters
    return DistributedDataParallel(
        model,
        device_ids=[device.index] if device.type == "cuda" else None,
        broadcast_buffers=options.broadcast_buffers,
        find_unused_parameters=not is_static,
        static_graph=is_static,
        gradient_as_bucket_view=True,
    )


def shard(model: nn.Module, device: torch.device, *, with_copy: bool = False) -> tuple[nn.Module, nn.Module | None]:
    """Distributes the parameters of a model over all processes (fully_shard of PyTorch).

    They become DTensors: build the optimizer afterwards. All processes start from the weights of rank 0. Each of
    SHARDED_BLOCKS is gathered for its forward and its backward pass, everything outside of them together. Weights
    travel and gradients are added up in the format of the weights, and autocast rounds them where it would on one
    process: norms and temperatures stay precise, and the numbers are those of `replicate`. The freezing of the model
    must be final.

    Returns: the model, and with `with_copy` a copy of it, since a sharded model cannot be copied any more.
    """
    comm.broadcast_module(model)
    copied = deepcopy(model) if with_copy else None
    mesh = init_device_mesh(device.type, (comm.get_world_size(),))
    blocks = _fully_shard(model, mesh)
    if copied is not None:
        _fully_shard(copied, mesh)
    logger.info("Sharded over %d processes, %d blocks gathered one by one", comm.get_world_size(), blocks)
    return model, copied


@contextmanager
def gathered(model: nn.Module) -> Iterator[None]:
    """Within the block every process has the whole of a sharded model, and may call it as often as it likes.

    For evaluation, where processes have different numbers of batches; other models are left alone.
    """
    shards = [module for module in model.modules() if isinstance(module, FSDPModule)]
    if isinstance(model, FSDPModule):  # PyTorch would take a part that is called first for a model of its own
        model._get_fsdp_state()._lazy_init()
    for module in shards:
        module.set_reshard_after_forward(False, recurse=False)
        module.unshard()
    try:
        yield
    finally:
        for module in shards:
            module.reshard()
            module.set_reshard_after_forward(True, recurse=False)


def _fully_shard(model: nn.Module, mesh: DeviceMesh) -> int:
    """Shards in place; returns the number of blocks."""
    blocks = list(_blocks(model))
    # The root is resharded after the forward pass, too, so that parameters are DTensors whenever no pass is under way.
    for module in (*blocks, model):
        fully_shard(module, mesh=mesh, reshard_after_forward=True)
    return len(blocks)


def _blocks(model: nn.Module) -> Iterator[nn.Module]:
    """The modules to gather one by one; none of them lies within another."""
    for module in model.children():
        if any(ancestor.__name__ in SHARDED_BLOCKS for ancestor in type(module).__mro__):
            if next(module.parameters(), None) is not None:
                yield module
        else:
            yield from _blocks(module)
