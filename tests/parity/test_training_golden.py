"""Two small pictures through a training step of the full-size detector: stages, losses, gradients, optimiser."""

import functools
from typing import NamedTuple

import pytest
import torch
from golden_tools import TOLERANCES, assert_golden, load_golden
from parity.model_golden import (
    DEVICE,
    GLIP_T,
    build_golden_model,
    golden_image,
    golden_json,
    model_config,
    recorded_names,
    recorded_stages,
    stage_tolerance,
)
from torch import Tensor

from maskrcnn_benchmark.modeling.detector import disable_stochasticity
from maskrcnn_benchmark.solver import make_optimizer
from maskrcnn_benchmark.structures.bounding_box import BoxList
from maskrcnn_benchmark.structures.image_list import to_image_list

pytestmark = pytest.mark.parity

RECORDED = f"train_{GLIP_T}"
SMALL = ("INPUT.MIN_SIZE_TEST", 320, "MODEL.DYHEAD.USE_CHECKPOINT", False)
STAGE_KINDS = ("swin", "fpn", "lang", "tower", "head")
HEAD_BIASES = ("AttnConv", "offset")  # noisy in the recording itself
# The gradient of this one number is a sum that cancels. In float32 an H200 is 2.4 to 2.8 % from the recording, with
# cuDNN, without it and with deterministic algorithms; in float64 it is 0.27 % away, exactly where a CPU is.
NOISY_ON_GPU = {"rpn.head.dyhead_tower.5.AttnConv.1.bias": 0.04}


class Batch(NamedTuple):
    """Inputs of the recorded step."""

    images: object
    targets: list[BoxList]
    captions: list[str]
    positive_map: Tensor


def recorded_batch(cfg) -> Batch:
    npz, samples = load_golden(f"{RECORDED}.npz"), golden_json(f"{RECORDED}.json")["samples"]
    tensors, targets = [], []
    for i, sample in enumerate(samples):
        tensor, size = golden_image(cfg, sample["image"])
        target = BoxList(torch.from_numpy(npz[f"target{i}.boxes"]), size, mode="xyxy")
        target.add_field("labels", torch.from_numpy(npz[f"target{i}.labels"]))
        tensors.append(tensor)
        targets.append(target)
    positive_map = torch.from_numpy(npz["positive_map"]).float()
    images = to_image_list(tensors, 32).to(DEVICE)
    return Batch(images, targets, [sample["caption"] for sample in samples], positive_map.to(DEVICE))


def training_model(cfg):
    model = disable_stochasticity(build_golden_model(cfg))
    return model.train()


def step_losses(model, batch: Batch) -> dict[str, Tensor]:
    return model(batch.images, batch.targets, batch.captions, batch.positive_map)


@functools.lru_cache(maxsize=1)
def run():
    """(golden arrays, facts, configuration, model with gradients, stages, losses) of the recorded step."""
    npz, facts = load_golden(f"{RECORDED}.npz"), golden_json(f"{RECORDED}.json")
    cfg = model_config(GLIP_T, *SMALL)
    model, batch = training_model(cfg), recorded_batch(cfg)
    with recorded_stages(model) as stages:
        losses = step_losses(model, batch)
    sum(losses.values()).backward()
    stages = {name: stage.detach() for name, stage in stages.items()}
    losses = {name: float(loss.detach()) for name, loss in losses.items()}
    return npz, facts, cfg, model, stages | {"batch.tensor": batch.images.tensors}, losses


def test_inputs():
    npz, *_, stages, _ = run()
    assert tuple(stages["batch.tensor"].shape) == tuple(npz["batch.shape"])
    assert_golden(stages["batch.tensor"], npz, "batch.tensor", TOLERANCES["transform"])


@pytest.mark.parametrize("kind", STAGE_KINDS)
def test_stages(kind):
    npz, *_, stages, _ = run()
    names = [name for name in recorded_names(npz) if name.startswith(f"{kind}.")]
    assert names
    for name in names:
        assert_golden(stages[name], npz, name, stage_tolerance(name, 2))


def test_losses():
    _, facts, *_, losses = run()
    assert list(losses) == list(facts["losses"])
    for name, recorded in facts["losses"].items():
        assert losses[name] == pytest.approx(recorded, rel=TOLERANCES["loss"].rtol), name
    assert sum(losses.values()) == pytest.approx(facts["total"], rel=TOLERANCES["loss"].rtol)


def test_gradient_norms():
    npz, facts, _, model, *_ = run()
    assert_gradient_norms(model, npz, facts)


@pytest.mark.slow
def test_gradient_norms_in_float64():
    """Without the noise of float32, on every device and for every parameter."""
    npz, facts, cfg, *_ = run()
    model, batch = training_model(cfg).double(), recorded_batch(cfg)
    batch = batch._replace(images=batch.images.to(torch.float64), positive_map=batch.positive_map.double())
    losses = step_losses(model, batch)
    sum(losses.values()).backward()
    assert_gradient_norms(model, npz, facts)


def assert_gradient_norms(model, npz, facts):
    gradients = {name: value.grad for name, value in model.named_parameters()}
    names = [str(name) for name in npz["grad.param_names"]]
    assert names == list(gradients)
    wrong = []
    for name, norm, has_grad in zip(names, npz["grad.norm"], npz["grad.has_grad"], strict=True):
        gradient = gradients[name]
        if not has_grad:
            assert gradient is None or not gradient.any(), f"{name} has a gradient, the recording has none"
            continue
        noisy = any(part in name for part in HEAD_BIASES)
        row = TOLERANCES["gradient_norm_attention_and_offset_bias" if noisy else "gradient_norm"]
        is_noisy_here = gradient.is_cuda and gradient.dtype == torch.float32
        relative = NOISY_ON_GPU.get(name, row.rtol) if is_noisy_here else row.rtol
        if abs(float(gradient.norm()) - norm) > row.atol + relative * norm:
            wrong.append(f"{name}: {float(gradient.norm()):.6g}, recorded {norm:.6g}")
    assert not wrong, f"{len(wrong)} of {len(names)} gradient norms differ, first: {wrong[:5]}"
    total = torch.stack([gradient.norm() for gradient in gradients.values() if gradient is not None]).norm()
    assert float(total) == pytest.approx(facts["global_grad_norm"], rel=1e-4)


# Gradients in float64 lie up to 2.2e-3 of their maximum from the recording, which is float32. Another float32 run may
# be as far on the other side: that depends on threads and processor.
SAMPLE_TOLERANCE = 2 * 2.2e-3


def test_gradient_samples():
    npz, _, _, model, *_ = run()
    parameters = dict(model.named_parameters())
    samples = [name.removeprefix("gradsample.") for name in npz.files if name.startswith("gradsample.")]
    assert samples
    for name in samples:
        gradient, recorded = parameters[name].grad.reshape(-1).cpu(), torch.from_numpy(npz[f"gradsample.{name}"])
        ours = gradient[:: int(npz[f"gradsample_stride.{name}"])]
        scale = max(float(recorded.abs().max()), 1e-4)
        relative = float((ours - recorded).abs().max()) / scale
        noisy = any(part in name for part in HEAD_BIASES)
        tolerance = 1e-2 if noisy else SAMPLE_TOLERANCE
        assert relative <= tolerance, f"gradient of {name}: differs by {relative:.2g} of its maximum"


def test_one_optimizer_step():
    """AdamW with the recorded groups and clipping moves every parameter as recorded, and the loss follows."""
    npz, facts, cfg, model, *_ = run()
    before = {name: value.detach().clone() for name, value in model.named_parameters()}
    optimizer = make_optimizer(cfg, model)
    optimizer.step()
    recorded = [name.removeprefix("param_after_step1.") for name in npz.files if name.startswith("param_after_step1.")]
    assert recorded
    norms = dict(zip((str(name) for name in npz["grad.param_names"]), npz["grad.norm"], strict=True))
    compared = 0
    for name in recorded:
        stride = int(npz[f"param_stride.{name}"])
        value = dict(model.named_parameters())[name].detach().cpu().reshape(-1)[::stride]
        gradient = dict(model.named_parameters())[name].grad
        gradient = None if gradient is None else gradient.cpu()
        theirs = torch.from_numpy(npz[f"param_after_step1.{name}"])
        if gradient is None:
            torch.testing.assert_close(value, theirs, rtol=0, atol=0)
            continue
        clear = gradient.reshape(-1)[::stride].abs() > 1e-3 * norms[name] / gradient.numel() ** 0.5
        if norms[name] < 1e-4 or not clear.any():
            continue
        torch.testing.assert_close(value[clear], theirs[clear], rtol=1e-5, atol=2e-6, msg=lambda m, n=name: f"{n}: {m}")
        compared += 1
    assert compared > 10
    still = [name for name, value in model.named_parameters() if norms[name] > 1e-4 and value.equal(before[name])]
    assert not still, f"parameters that did not move: {still}"
    losses = step_losses(model, recorded_batch(cfg))
    for name, value in facts["after_step1"]["losses"].items():
        assert float(losses[name].detach()) == pytest.approx(value, rel=0.02), name
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            parameter.copy_(before[name])
