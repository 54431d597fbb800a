"""What follows the backward pass of a training step: python benchmarks/optimizer.py [--runs N] [--config-file FILE]

Clipping, AdamW and averaged weights of a full-size detector with random gradients, each alone and all together, beside
the plain way: torch.optim.AdamW with one group per parameter, torch's clipping, an average tensor by tensor. "All" is
what the trainer does, with the check for values that are not finite, in bfloat16 and with float16's scale of the loss.

Host ms: until the call returns, with an idle GPU. Device ms: between two events in a queue that the host has filled
before. All ms: from an idle GPU to an idle GPU. The floor is the time to move the bytes once. Without a GPU the
embedded model is stepped, whose figures say nothing about a GPU.
"""

import argparse
import sys
import time
from collections.abc import Callable, Sequence
from copy import deepcopy
from statistics import median

import torch
import workload
from measure import machine, time_runs
from operators import TB_PER_S
from scaling import NANO, configuration
from torch import Tensor, nn
from torch.optim import AdamW, Optimizer

from maskrcnn_benchmark.engine.training.guarded_step import GuardedStep
from maskrcnn_benchmark.modeling.detector import build_detection_model
from maskrcnn_benchmark.solver import ModelEma, make_optimizer
from maskrcnn_benchmark.solver.gradient_clipping import clip_each_norm, clip_full_model
from maskrcnn_benchmark.solver.param_groups import GroupRules, parameter_groups

HEADER = (
    "| part | path | host ms | device ms | all ms: median (fastest - slowest) of runs | kernels | floor ms |\n"
    "|---|---|---|---|---|---|---|"
)
LIMIT, DECAY = 1.0, 0.999
QUEUE_CYCLES = 400_000_000  # of a GPU that waits while the host fills its queue, some 200 ms
PASSES = {  # reads and writes of as many bytes as the parameters have
    "AdamW": 7,
    "clipping of the full model": 3,
    "clipping of each parameter": 3,
    "averaged weights": 3,
    "all, bfloat16": 13,
    "all, float16": 15,
}
Parts = dict[str, Callable[[], object]]


class Side:
    """A copy of the model with gradients, an optimizer, and its average."""

    def __init__(self, model: nn.Module, make: Callable[[nn.Module], Optimizer]):
        self.model = deepcopy(model)
        self.parameters = [one for one in self.model.parameters() if one.requires_grad]
        self.average = ModelEma(self.model, DECAY)
        self.optimizer = make(self.model)

    def give_gradients(self, seed: int = 0) -> None:
        generator = torch.Generator(self.parameters[0].device).manual_seed(seed)
        for one in self.parameters:
            one.grad = torch.empty_like(one) if one.grad is None else one.grad
            one.grad.normal_(generator=generator)


def our_parts(side: Side, clipping: Side, device: torch.device) -> Parts:
    """The package's way; `clipping` has an optimizer that clips by itself, as in training."""
    steps = {use: GuardedStep(clipping.optimizer, device, use_loss_scale=use) for use in (False, True)}

    def everything(use_loss_scale: bool) -> None:
        steps[use_loss_scale].finish()
        clipping.average.update(clipping.model)

    scaler = steps[True].scaler
    assert scaler is not None
    scaler.scale(torch.ones((), device=device))
    return {
        "AdamW": side.optimizer.step,
        "clipping of the full model": lambda: clip_full_model(side.optimizer, LIMIT),
        "clipping of each parameter": lambda: clip_each_norm(side.optimizer, LIMIT),
        "averaged weights": lambda: side.average.update(side.model),
        "all, bfloat16": lambda: everything(False),
        "all, float16": lambda: everything(True),
    }


def plain_parts(side: Side, device: torch.device) -> Parts:
    """The way of a simple training loop."""
    scaler = torch.amp.GradScaler(device.type)
    scaler.scale(torch.ones((), device=device))

    def clip() -> Tensor:
        return torch.nn.utils.clip_grad_norm_(side.parameters, LIMIT)

    def clip_each() -> None:
        for one in side.parameters:
            torch.nn.utils.clip_grad_norm_(one, LIMIT)

    @torch.no_grad()
    def average() -> None:
        values = side.model.state_dict()
        for name, mean in side.average.ema.state_dict().items():
            mean.copy_(mean * DECAY + (1 - DECAY) * values[name])

    def in_bfloat16() -> None:
        if torch.isfinite(clip()):
            side.optimizer.step()
        average()

    def in_float16() -> None:
        scaler.unscale_(side.optimizer)
        clip()
        scaler.step(side.optimizer)
        scaler.update()
        average()

    return {
        "AdamW": side.optimizer.step,
        "clipping of the full model": clip,
        "clipping of each parameter": clip_each,
        "averaged weights": average,
        "all, bfloat16": in_bfloat16,
        "all, float16": in_float16,
    }


def host_and_device_ms(function: Callable[[], object], prepare: Callable[[], object], runs: int) -> tuple[float, float]:
    """Medians; the device is a GPU."""
    host, device = [], []
    for _ in range(runs):
        prepare()
        torch.cuda.synchronize()
        start = time.perf_counter()
        function()
        host.append(1e3 * (time.perf_counter() - start))
        prepare()
        begin, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
        torch.cuda._sleep(QUEUE_CYCLES)
        begin.record()
        function()
        end.record()
        torch.cuda.synchronize()
        device.append(begin.elapsed_time(end))
    return median(host), median(device)


def number_of_kernels(function: Callable[[], object]) -> int:
    """Kernels, copies and fills that a call gives to the GPU."""
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CUDA]) as profiler:
        function()
        torch.cuda.synchronize()
    return sum(event.device_type == torch.autograd.DeviceType.CUDA for event in profiler.events())


def row(part: str, path: str, function: Callable[[], object], side: Side, device: torch.device, runs: int) -> str:
    """A line of the table under HEADER."""
    whole = time_runs(function, device, runs=runs, prepare=side.give_gradients)
    host, queued, kernels = "-", "-", "-"
    if device.type == "cuda":
        side.give_gradients()
        host_ms, device_ms = host_and_device_ms(function, side.give_gradients, runs)
        host, queued, kernels = f"{host_ms:.2f}", f"{device_ms:.2f}", str(number_of_kernels(function))
    floor_ms = PASSES[part] * sum(one.numel() * one.element_size() for one in side.parameters) / TB_PER_S / 1e9
    return (
        f"| {part} | {path} | {host} | {queued} | {1e3 * whole.median_s:.2f} "
        f"({1e3 * whole.fastest_s:.2f} - {1e3 * whole.slowest_s:.2f}) of {whole.runs} | {kernels} | {floor_ms:.2f} |"
    )


def check(ours: Side, our_step: Callable[[], object], plain: Side, plain_step: Callable[[], object]) -> None:
    """Both paths must come to the same weights and averages from the same gradients.

    Raises: AssertionError naming the first tensor that differs.
    """
    for seed in range(3):
        for side, step in ((ours, our_step), (plain, plain_step)):
            side.give_gradients(seed)
            step()
    for found, expected in ((ours.model, plain.model), (ours.average.ema, plain.average.ema)):
        named = dict(expected.named_parameters())
        for name, value in found.named_parameters():
            torch.testing.assert_close(value, named[name], rtol=1e-5, atol=1e-7, msg=f"{name} differs")


def parse(argv: Sequence[str] | None = None) -> argparse.Namespace:
    is_gpu = torch.cuda.is_available()
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "--device", choices=("cuda", "cpu"), default="cuda" if is_gpu else "cpu", help="default: %(default)s"
    )
    parser.add_argument("--config-file", help="default: GLIP-T on a GPU, the embedded model on a CPU")
    parser.add_argument("--runs", type=int, default=20, help="default: %(default)s")
    args = parser.parse_args(argv)
    args.config_file = args.config_file or str(workload.GLIP_T if args.device == "cuda" else NANO)
    return args


def main() -> int:
    args = parse()
    device = torch.device(args.device)
    clipping = ["SOLVER.CLIP_GRADIENTS.ENABLED", True, "SOLVER.CLIP_GRADIENTS.CLIP_TYPE", "full_model"]
    args.opts = [*clipping, "SOLVER.CLIP_GRADIENTS.CLIP_VALUE", LIMIT, "SOLVER.OPTIMIZER", "ADAMW"]
    cfg = configuration(args)
    torch.manual_seed(0)
    model = build_detection_model(cfg).to(device).train()
    rules = GroupRules.from_config(cfg)
    plain = Side(model, lambda copied: AdamW(parameter_groups(copied.named_parameters(), rules), lr=rules.base_lr))
    clipping_side = Side(model, lambda copied: make_optimizer(cfg, copied))
    cfg.SOLVER.CLIP_GRADIENTS.ENABLED = False
    ours = Side(model, lambda copied: make_optimizer(cfg, copied))
    our_functions, plain_functions = our_parts(ours, clipping_side, device), plain_parts(plain, device)
    check(clipping_side, our_functions["all, bfloat16"], plain, plain_functions["all, bfloat16"])
    count = sum(one.numel() for one in ours.parameters)
    title = f"{args.config_file}: {len(ours.parameters)} trainable tensors, {count / 1e6:.1f} million values"
    sys.stdout.write(f"{machine(device)}\n\n{title}\n\n{HEADER}\n")
    for part in PASSES:
        our_side = clipping_side if part.startswith("all") else ours
        for path, functions, side in (("ours", our_functions, our_side), ("plain", plain_functions, plain)):
            sys.stdout.write(f"{row(part, path, functions[part], side, device, args.runs)}\n")
            sys.stdout.flush()
    return 0


if __name__ == "__main__":
    sys.exit(main())
