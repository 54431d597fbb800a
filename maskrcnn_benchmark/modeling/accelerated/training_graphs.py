"""CUDA graphs of a network in training: one launch forward and one backward, for shapes that come again."""

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable
from torch.func import functional_call
from torch.utils._pytree import TreeSpec, tree_flatten, tree_unflatten

from maskrcnn_benchmark.layers import NaiveSyncBatchNorm2d

from .graphs import GraphPool, capture_stream, writable_copies


class _Recording(NamedTuple):
    """Both passes for one set of shapes.

    outputs: all that the function returns; output_grads: memory for the gradients of those that have one, None for the
    others. parameters: those that get a gradient, and parameter_grads where the backward pass leaves it.
    """

    forward: torch.cuda.CUDAGraph
    backward: torch.cuda.CUDAGraph
    inputs: tuple[Tensor, ...]
    outputs: tuple[Tensor | None, ...]
    output_grads: tuple[Tensor | None, ...]
    parameters: tuple[nn.Parameter, ...]
    parameter_grads: tuple[Tensor, ...]
    structure: TreeSpec


class _Network(nn.Module):
    """Calls a function that computes with the parameters of a module."""

    def __init__(self, module: nn.Module, function: Callable[..., Any]):
        super().__init__()
        self.module, self.function = module, function

    def forward(self, *inputs: Tensor) -> Any:
        return self.function(*inputs)


class TrainingGraphs:
    """Calls a network directly where its shapes are new, and replays recordings where they come again.

    Loss, optimizer and whatever else a step does stay outside: the outputs carry gradients like those of the network.
    The network must launch the same kernels for the same shapes, never wait for the device, and draw random numbers
    from the default generator of the GPU only. All recordings share the memory of their activations and gradients, so
    the backward pass of a call must come before the next call.

    Args:
        function: tensors -> nested tuples of tensors and None; computes with the parameters of `module`.
        direct_calls: how often a shape is computed directly before it is recorded.
        capacity: number of shapes that are recorded; those that come later are computed directly. A recording costs
            the memory of its inputs and outputs.
    """

    def __init__(
        self, module: nn.Module, function: Callable[..., Any], *, direct_calls: int = 3, capacity: int = 16
    ) -> None:
        self.module, self.function = module, function
        self.direct_calls, self.capacity = direct_calls, capacity
        self.calls = 0  # that were replayed; tells a backward pass whether its activations are still there
        self._pool = GraphPool()
        self._seen: dict[tuple, int] = {}
        self._recordings: dict[tuple, _Recording] = {}
        self._gradients: dict[nn.Parameter, Tensor] = {}
        self._addresses: tuple = ()

    def __reduce__(self) -> tuple:
        """Copies, which `copy.deepcopy` and `pickle` make with the module, have no recordings."""
        made = partial(TrainingGraphs, direct_calls=self.direct_calls, capacity=self.capacity)
        return made, (self.module, self.function)

    def __len__(self) -> int:
        return len(self._recordings)

    def __call__(self, *inputs: Tensor) -> Any:
        """What the function returns; its tensors are overwritten by the next call."""
        device = inputs[0].device
        if device.type != "cuda" or not torch.is_grad_enabled():
            return self.function(*inputs)
        self._forget_if_moved()
        key = (*((tuple(x.shape), x.dtype) for x in inputs), *_numbers())
        if key not in self._recordings:
            seen = self._seen[key] = self._seen.get(key, 0) + 1
            if seen <= self.direct_calls or len(self._recordings) >= self.capacity:
                return self.function(*inputs)
            with self._pool.turn(device):
                self._recordings[key] = self._record(inputs)
        recording = self._recordings[key]
        with self._pool.turn(device):
            outputs = _Replay.apply(self, recording, len(inputs), *inputs, *recording.parameters)
        return tree_unflatten(list(outputs), recording.structure)

    def clear(self) -> None:
        """Forgets all recordings and gives their memory back."""
        self._seen.clear()
        self._recordings.clear()
        self._gradients.clear()

    def _forget_if_moved(self) -> None:
        """A recording reads the weights where they lay when it was made, and differentiates what was trained then.

        Of what was not trained it may read prepared forms, so that those weights must be the same as well.
        """
        addresses = tuple((p.data_ptr(), -1 if p.requires_grad else p._version) for p in self.module.parameters())
        if addresses != self._addresses:
            self.clear()
            self._addresses = addresses

    def _record(self, inputs: Sequence[Tensor]) -> _Recording:
        static = writable_copies(tuple(inputs))
        stream, pool = capture_stream(inputs[0].device), self._pool.handle()
        torch.cuda.synchronize()
        torch.cuda.empty_cache()  # what direct calls used for activations; the recordings have memory of their own
        forward, backward = torch.cuda.CUDAGraph(), torch.cuda.CUDAGraph()
        trained = [(name, p) for name, p in self.module.named_parameters() if p.requires_grad]
        # Others of the same memory: autograd ties a parameter to the stream where its gradient was first needed.
        leaves = {f"module.{name}": p.detach().requires_grad_() for name, p in trained}
        torch.clear_autocast_cache()  # weights that were cast outside are not there when the graph is replayed
        with torch.cuda.graph(forward, pool=pool, stream=stream, capture_error_mode="thread_local"):
            result = functional_call(_Network(self.module, self.function), leaves, static)
        torch.clear_autocast_cache()
        outputs, structure = tree_flatten(result)
        differentiable = [x for x in outputs if isinstance(x, Tensor) and x.requires_grad]
        grads = [torch.zeros_like(x) for x in differentiable]
        for _, parameter in trained:
            self._gradients.setdefault(parameter, torch.empty_like(parameter))
        torch.cuda.synchronize()
        with torch.cuda.graph(backward, pool=pool, stream=stream, capture_error_mode="thread_local"):
            found = torch.autograd.grad(differentiable, list(leaves.values()), grads, allow_unused=True)
            used = tuple(p for (_, p), grad in zip(trained, found, strict=True) if grad is not None)
            shared = [self._gradients[p] for p in used]
            torch._foreach_copy_(shared, [grad for grad in found if grad is not None])
        by_output = dict(zip(map(id, differentiable), grads, strict=True))
        return _Recording(
            forward,
            backward,
            static,
            tuple(x.detach() if isinstance(x, Tensor) else x for x in outputs),
            tuple(by_output.get(id(x)) for x in outputs),
            used,
            tuple(shared),
            structure,
        )


class _Replay(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, graphs: TrainingGraphs, recording: _Recording, num_inputs: int, *tensors: Tensor
    ) -> tuple[Tensor, ...]:
        for static, given in zip(recording.inputs, tensors[:num_inputs], strict=True):
            static.copy_(given)
        recording.forward.replay()
        graphs.calls += 1
        ctx.graphs, ctx.recording, ctx.call, ctx.num_inputs = graphs, recording, graphs.calls, num_inputs
        # Other tensors in the same memory, since autograd marks those that it gets.
        outputs = tuple(x.detach() if isinstance(x, Tensor) else x for x in recording.outputs)
        fixed = [x for x, grad in zip(outputs, recording.output_grads, strict=True) if grad is None]
        ctx.mark_non_differentiable(*(x for x in fixed if isinstance(x, Tensor)))
        return outputs

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *grads: Tensor | None) -> tuple[Tensor | None, ...]:
        recording: _Recording = ctx.recording
        if ctx.call != ctx.graphs.calls:
            raise RuntimeError(
                "the activations of this recorded forward pass were overwritten by a later one: call backward before "
                "the next forward pass, or train without SOLVER.CUDA_GRAPHS"
            )
        for static, grad in zip(recording.output_grads, grads, strict=True):
            if static is None:
                continue
            if grad is None:
                static.zero_()
            else:
                static.copy_(grad)
        recording.backward.replay()
        # These very tensors, which the recording also holds: autograd then copies them where gradients accumulate.
        return (None, None, None, *(None,) * ctx.num_inputs, *recording.parameter_grads)


def why_not_recorded(model: nn.Module) -> str | None:
    """What a GeneralizedVLRCNN does in training that a recording cannot hold, or None."""
    if model.knowledge is not None:
        return "GLIPKNOW.PARALLEL_LANGUAGE_INPUT"
    if model.mlm:
        return "MODEL.DYHEAD.FUSE_CONFIG.MLM_LOSS"
    for module in model.modules():
        if getattr(module, "use_checkpoint", False) or getattr(module, "gradient_checkpointing", False):
            return (
                "activation checkpointing (set the USE_CHECKPOINT keys of BACKBONE, DYHEAD and LANGUAGE_BACKBONE False)"
            )
        if isinstance(module, nn.SyncBatchNorm | NaiveSyncBatchNorm2d):
            return "batch normalisation over processes"
        if getattr(module, "trim", False):
            return "text that is cut to the longest caption (a model without dot-product loss)"
    return None


def _numbers() -> tuple:
    """What else decides about the kernels of a call."""
    matmul, cudnn = torch.backends.cuda.matmul, torch.backends.cudnn
    is_autocast = torch.is_autocast_enabled("cuda")
    dtype = torch.get_autocast_dtype("cuda") if is_autocast else None
    return is_autocast, dtype, matmul.fp32_precision, cudnn.conv.fp32_precision
