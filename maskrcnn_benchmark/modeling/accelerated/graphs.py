"""CUDA graphs of functions of tensors: one launch instead of thousands, for shapes that come again."""

import contextlib
import threading
from collections import OrderedDict
from collections.abc import Callable, Hashable, Iterator
from functools import cache
from typing import NamedTuple

import torch
from torch import Tensor


class _Recording(NamedTuple):
    graph: torch.cuda.CUDAGraph
    inputs: tuple[Tensor, ...]
    outputs: tuple[Tensor, ...]
    resources: object


class GraphCache:
    """Calls a function directly where its shapes are new, and replays a recording of it where they come again.

    The function must take and return tensors on one GPU, launch the same kernels for the same shapes, never wait for
    the device and never read memory that is gone when it returns. All recordings share one pool of memory, so they
    run one after the other, also where several threads or streams call.

    Args:
        function: tensors -> tuple of tensors; `settings` of a call, which must be hashable, are passed by name.
        capacity: number of recordings that are kept, the least recently used goes first.
        direct_calls: how often a shape is computed directly before it is recorded.
        pool: memory pool to share with other caches of the same thread.
        resources: settings -> what the function reads beside its inputs and is kept as long as the recording, such as
            tables that depend on the settings.
    """

    def __init__(
        self,
        function: Callable[..., tuple[Tensor, ...]],
        *,
        capacity: int = 16,
        direct_calls: int = 1,
        pool: "GraphPool | None" = None,
        resources: Callable[..., object] | None = None,
    ):
        self.function, self.capacity, self.direct_calls = function, capacity, direct_calls
        self.pool, self.resources = pool or GraphPool(), resources
        self._calls: dict[Hashable, int] = {}
        self._recordings: OrderedDict[Hashable, _Recording] = OrderedDict()

    def __len__(self) -> int:
        return len(self._recordings)

    def clear(self) -> None:
        """Forgets all recordings and gives their memory back to the pool."""
        self._calls.clear()
        self._recordings.clear()

    def __call__(self, *inputs: Tensor, **settings: Hashable) -> tuple[Tensor, ...]:
        """The outputs of the function; they are copies, which later calls leave alone."""
        if inputs[0].device.type != "cuda":
            return self.function(*inputs, **settings)
        key = (*((tuple(x.shape), x.dtype, x.device) for x in inputs), *sorted(settings.items()))
        with self.pool.turn(inputs[0].device):
            if key in self._recordings or self._calls.get(key, 0) >= self.direct_calls:
                return self._replay(key, inputs, settings)
            self._calls[key] = self._calls.get(key, 0) + 1
        return self.function(*inputs, **settings)

    def _replay(self, key: Hashable, inputs: tuple[Tensor, ...], settings: dict) -> tuple[Tensor, ...]:
        if key not in self._recordings:
            self._record(key, inputs, settings)
        self._recordings.move_to_end(key)
        recording = self._recordings[key]
        for static, given in zip(recording.inputs, inputs, strict=True):
            static.copy_(given)
        recording.graph.replay()
        return tuple(x.clone() for x in recording.outputs)

    def _record(self, key: Hashable, inputs: tuple[Tensor, ...], settings: dict) -> None:
        while len(self._recordings) >= self.capacity:
            oldest, _ = self._recordings.popitem(last=False)
            self._calls.pop(oldest, None)
        static = writable_copies(inputs)
        # Made before the recording, which may copy nothing from the host.
        resources = None if self.resources is None else self.resources(**settings)
        graph, stream = torch.cuda.CUDAGraph(), capture_stream(inputs[0].device)
        torch.cuda.synchronize()
        with torch.cuda.graph(graph, pool=self.pool.handle(), stream=stream, capture_error_mode="thread_local"):
            outputs = self.function(*static, **settings)
        self._recordings[key] = _Recording(graph, static, outputs, resources)


class GraphPool:
    """Memory that the recordings of several caches share, taken when first needed, and whose turn it is to use it."""

    def __init__(self) -> None:
        self._handle = None
        self._lock = threading.Lock()
        self._stream: torch.cuda.Stream | None = None

    def handle(self):
        """The handle that `torch.cuda.graph` takes."""
        if self._handle is None:
            self._handle = torch.cuda.graph_pool_handle()
        return self._handle

    @contextlib.contextmanager
    def turn(self, device: torch.device) -> Iterator[None]:
        """Keeps other threads out, and lets the current stream wait for the one that used the memory before it."""
        with self._lock:
            stream = torch.cuda.current_stream(device)
            if self._stream is not None and self._stream != stream:
                stream.wait_stream(self._stream)
            self._stream = stream
            yield


@cache
def capture_stream(device: torch.device) -> torch.cuda.Stream:
    """The stream on which a GPU records; that of `torch.cuda.graph` belongs to the GPU that recorded first."""
    return torch.cuda.Stream(device)


def writable_copies(inputs: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
    """Contiguous copies that can be written to in and outside of inference mode, whichever is on."""
    with torch.inference_mode(False), torch.no_grad():
        return tuple(x.clone(memory_format=torch.contiguous_format) for x in inputs)
