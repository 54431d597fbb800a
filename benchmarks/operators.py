"""Time of the operators on a GPU beside those of PyTorch and torchvision: python benchmarks/operators.py

One row for each: `deform_conv2d` forward and with its gradients, the token focal loss with its gradient, `ml_nms`,
the two softmaxes of deep fusion with dropout and their gradients.
Times are of calls queued back to back between two events, the median of --runs groups; inputs are in turn of several
sets.
"""

import argparse
import sys
from collections.abc import Callable, Sequence
from statistics import median

import torch
import torch.nn.functional as F
import torchvision
from measure import machine
from torch import Tensor

from maskrcnn_benchmark.ops import deform_conv2d, ml_nms, token_sigmoid_focal_loss
from maskrcnn_benchmark.ops.kernels.folded_words import Limits
from maskrcnn_benchmark.ops.kernels.two_way_attention import two_way_attention

HEADER = (
    "| operator | input | dtype | path | ms: median (fastest - slowest) of runs | floor ms |\n|---|---|---|---|---|---|"
)
SETS, CALLS = 4, 4
HALF_TFLOP_PER_S, TB_PER_S = 788.0, 4.26  # of an H200, measured with an 8192^3 product and a large copy


def times(function: Callable[[int], object], runs: int) -> list[float]:
    """Milliseconds of one call in each of `runs` groups of queued calls."""
    for i in range(2 * SETS):
        function(i % SETS)
    pairs = [[torch.cuda.Event(enable_timing=True) for _ in range(2)] for _ in range(runs)]
    torch.cuda.synchronize()
    for start, end in pairs:
        start.record()
        for i in range(CALLS):
            function(i % SETS)
        end.record()
    torch.cuda.synchronize()
    return [start.elapsed_time(end) / CALLS for start, end in pairs]


def row(name: str, shape: str, dtype: str, path: str, measured: Sequence[float], floor: float) -> str:
    return (
        f"| {name} | {shape} | {dtype} | {path} "
        f"| {median(measured):.3f} ({min(measured):.3f} - {max(measured):.3f}) of {len(measured)} | {floor:.3f} |"
    )


def deform_rows(runs: int) -> list[str]:
    """Modulated 3x3 deformable convolution, 256 -> 256 channels at 100x168, batch 8."""
    batch, channels, height, width = 8, 256, 100, 168
    lines = []
    flop = 2 * batch * height * width * 9 * channels * channels
    floor = flop / HALF_TFLOP_PER_S / 1e9
    for dtype in (torch.float16, torch.bfloat16):
        sets = []
        for _ in range(SETS):
            x = torch.randn(batch, channels, height, width, device="cuda", dtype=dtype)
            x = x.to(memory_format=torch.channels_last).requires_grad_()
            offset = torch.randn(batch, 18, height, width, device="cuda").requires_grad_()
            mask = torch.rand(batch, 9, height, width, device="cuda").requires_grad_()
            sets.append((x, offset, mask))
        weight = (torch.randn(channels, channels, 3, 3, device="cuda", dtype=dtype) * 0.02).requires_grad_()
        bias = torch.zeros(channels, device="cuda", dtype=dtype).requires_grad_()

        def ours(x: Tensor, offset: Tensor, mask: Tensor, weight=weight, bias=bias) -> Tensor:
            return deform_conv2d(x, offset, weight, bias, mask=mask, padding=1)

        def theirs(x: Tensor, offset: Tensor, mask: Tensor, weight=weight, bias=bias, dtype=dtype) -> Tensor:
            return torchvision.ops.deform_conv2d(x, offset.to(dtype), weight, bias, mask=mask.to(dtype), padding=1)

        paths = [("ours", ours)] + ([("torchvision", theirs)] if dtype == torch.float16 else [])
        shape = f"{batch}x{channels}x{height}x{width}, 3x3"
        for path, function in paths:

            def forward(i: int, function=function, sets=sets) -> None:
                with torch.no_grad():
                    function(*sets[i])

            def both(i: int, function=function, sets=sets, weight=weight, bias=bias) -> None:
                out = function(*sets[i])
                torch.autograd.grad(out, (*sets[i], weight, bias), out.detach())

            name = str(dtype).removeprefix("torch.")
            lines.append(row("deform_conv2d", shape, name, path, times(forward, runs), floor))
            lines.append(row("deform_conv2d + gradients", shape, name, path, times(both, runs), 3 * floor))
    return lines


def plain_focal_loss(logits: Tensor, targets: Tensor, text_mask: Tensor) -> Tensor:
    """The formula behind the mask, as the original computes it."""
    chosen = (text_mask > 0)[:, None].expand_as(logits)
    logits, targets = logits.masked_select(chosen), targets.masked_select(chosen)
    p = logits.sigmoid()
    p_target = p * targets + (1 - p) * (1 - targets)
    loss = F.binary_cross_entropy_with_logits(logits, targets, reduction="none") * (1 - p_target) ** 2
    return ((0.25 * targets + 0.75 * (1 - targets)) * loss).sum()


def focal_rows(runs: int) -> list[str]:
    """Token focal loss with a text mask and its gradient, 22,400 locations and 256 tokens."""
    sets = []
    for _ in range(SETS):
        logits = torch.randn(1, 22400, 256, device="cuda").requires_grad_()
        targets = (torch.rand(1, 22400, 256, device="cuda") < 0.01).float()
        sets.append((logits, targets, (torch.arange(256, device="cuda") < 194).long()[None]))

    def ours(i: int) -> None:
        torch.autograd.grad(token_sigmoid_focal_loss(*sets[i], 0.25, 2.0), sets[i][0])

    def plain(i: int) -> None:
        torch.autograd.grad(plain_focal_loss(*sets[i]), sets[i][0])

    floor = 3 * sets[0][0].numel() * 4 / TB_PER_S / 1e9
    name, shape = "token_sigmoid_focal_loss + gradient", "22400x256, mask of 194"
    return [
        row(name, shape, "float32", path, times(function, runs), floor)
        for path, function in (("ours", ours), ("plain PyTorch", plain))
    ]


def nms_rows(runs: int) -> list[str]:
    """`ml_nms` of 5,000 random boxes with 80 labels, indices on the device."""
    sets = []
    for _ in range(SETS):
        corner = torch.rand(5000, 2, device="cuda") * torch.tensor([1200.0, 700.0], device="cuda")
        boxes = torch.cat((corner, corner + 20 + 100 * torch.rand(5000, 2, device="cuda")), 1)
        sets.append((boxes, torch.rand(5000, device="cuda"), torch.randint(1, 81, (5000,), device="cuda")))

    def ours(i: int) -> None:
        ml_nms(*sets[i], 0.6)

    def theirs(i: int) -> None:
        torchvision.ops.batched_nms(*sets[i], 0.6)

    return [
        row("ml_nms", "5000 boxes, 80 labels", "float32", path, times(function, runs), 0.0)
        for path, function in (("ours", ours), ("torchvision batched_nms", theirs))
    ]


def plain_two_way(logits: Tensor, visual: Tensor, text_mask: Tensor, heads: int) -> tuple[Tensor, Tensor, Tensor]:
    """Softmax over the words and softmax over the locations with dropout, the latter times visual, and its sums."""
    with torch.autocast("cuda", logits.dtype):
        scores = logits.unflatten(-1, (heads, -1)).clamp(-50000, 50000)
        words = scores.masked_fill((text_mask == 0)[:, None, None], torch.finfo(scores.dtype).min).softmax(-1)
        over_locations = F.dropout(scores.flatten(2).transpose(1, 2).softmax(-1), 0.1)
        over_words = F.dropout(words, 0.1).flatten(2).to(logits.dtype)
        return over_words, over_locations @ visual, over_locations.sum(-1)


def two_way_rows(runs: int) -> list[str]:
    """Both softmaxes of deep fusion in training, batch 4 at 800x1344, 194 of 256 words."""
    batch, locations, heads, words, channels = 4, 22400, 8, 256, 256
    text_mask = (torch.arange(words, device="cuda") < 194).expand(batch, -1)
    sets = []
    for _ in range(SETS):
        logits = torch.randn(batch, locations, heads * words, device="cuda", dtype=torch.half).requires_grad_()
        visual = torch.randn(batch, locations, channels, device="cuda", dtype=torch.half).requires_grad_()
        grad_pooled = torch.randn(batch, heads * words, channels, device="cuda", dtype=torch.half)
        sets.append((logits, visual, (torch.randn_like(logits), grad_pooled, grad_pooled[..., 0].float())))

    def ours(logits: Tensor, visual: Tensor) -> Sequence[Tensor | None]:
        return two_way_attention(logits, visual, text_mask, heads, Limits(True, True), dropout=0.1)

    def plain(logits: Tensor, visual: Tensor) -> Sequence[Tensor | None]:
        return plain_two_way(logits, visual, text_mask, heads)

    lines = []
    flop = 6 * batch * locations * heads * words * channels
    floor = max(flop / HALF_TFLOP_PER_S / 1e9, 4 * 2 * sets[0][0].numel() / TB_PER_S / 1e9)
    for path, function in (("ours", ours), ("plain PyTorch", plain)):

        def forward(i: int, function=function) -> None:
            function(*sets[i][:2])

        def both(i: int, function=function) -> None:
            torch.autograd.grad(function(*sets[i][:2]), sets[i][:2], sets[i][2])

        for name, call in (("two-way attention", forward), ("two-way attention + gradients", both)):
            share = 1.0 if call is both else 1 / 3
            shape = f"{batch}x{locations}x({heads}x{words}), dropout 0.1"
            lines.append(row(name, shape, "float16", path, times(call, runs), share * floor))
    return lines


PARTS = (deform_rows, focal_rows, nms_rows, two_way_rows)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--runs", type=int, default=20, help="default: %(default)s")
    args = parser.parse_args()
    sys.stdout.write(f"{machine(torch.device('cuda'))}\n\n{HEADER}\n")
    for rows in PARTS:
        for line in rows(args.runs):
            sys.stdout.write(line + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
