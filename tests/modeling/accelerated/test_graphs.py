"""What a recording on a GPU reads and writes."""

import pytest
import torch

from maskrcnn_benchmark.modeling.accelerated.graphs import GraphCache, writable_copies


@pytest.mark.parametrize("made_in", [torch.inference_mode, torch.no_grad, torch.enable_grad])
@pytest.mark.parametrize("written_in", [torch.inference_mode, torch.no_grad])
def test_inputs_can_be_written_to_in_every_mode(made_in, written_in):
    given = torch.rand(3, 4, requires_grad=True).t()
    with made_in():
        (static,) = writable_copies((given,))
    assert static.is_contiguous() and not static.requires_grad and torch.equal(static, given)
    with written_in():
        static.copy_(given + 1)
    assert torch.equal(static, given + 1)


def test_on_a_cpu_the_function_is_called():
    calls = []
    cache = GraphCache(lambda x, *, factor: (calls.append(factor), (x * factor,))[1])
    for _ in range(3):
        assert torch.equal(cache(torch.ones(2), factor=2)[0], torch.full((2,), 2.0))
    assert calls == [2, 2, 2] and len(cache) == 0


@pytest.mark.gpu
def test_streams_take_turns():
    cache = GraphCache(lambda x: (x * 2 + 1,))
    inputs = [torch.full((1 << 20,), float(i), device="cuda") for i in range(8)]
    streams = [torch.cuda.Stream() for _ in range(2)]
    torch.cuda.synchronize()
    outputs = []
    for i, x in enumerate(inputs):
        with torch.cuda.stream(streams[i % 2]):
            outputs.append(cache(x)[0])
    torch.cuda.synchronize()
    assert len(cache) == 1
    for i, out in enumerate(outputs):
        assert torch.equal(out, torch.full_like(out, 2.0 * i + 1))
