"""Two processes against one: normalisers are means over the ranks, and a rank without positives takes part."""

import os
import subprocess
import sys
from pathlib import Path

import torch
from loss_batch import evaluator, run, small_batch

PROGRAM = """
import sys, torch
import torch.distributed as dist
from loss_batch import evaluator, run, small_batch
from maskrcnn_benchmark.layers import NaiveSyncBatchNorm2d
from maskrcnn_benchmark.modeling.losses.shallow_contrastive import gather_with_gradient

rank, store, folder = int(sys.argv[1]), sys.argv[2], sys.argv[3]
torch.set_num_threads(1)
dist.init_process_group("gloo", init_method=f"file://{store}", rank=rank, world_size=2)
outputs, targets, anchors, positive_map, mask = small_batch((3, 0))
own = slice(rank, rank + 1)
batch = {name: [level[own] for level in levels] for name, levels in outputs.items()}
rows = slice(0, 3) if rank == 0 else slice(3, 3)
losses = run(evaluator(use_classification=True), (batch, targets[own], anchors[own], positive_map[rows], mask[own]))
torch.stack([losses.cls, losses.reg, losses.centerness, losses.dot_product_token]).sum().backward()

x = torch.arange(12.0).reshape(2, 2, 3, 1).cos()
layer = NaiveSyncBatchNorm2d(2)
part = x[own].clone().requires_grad_()
y = layer(part)
(y * torch.arange(6.0).reshape(2, 3, 1)).sum().backward()
values = torch.full((2,), float(rank), requires_grad=True)
gathered = gather_with_gradient(values)
gathered.square().sum().backward()
torch.save(
    {
        "losses": losses, "norm": y.detach(), "norm_grad": part.grad,
        "gathered": gathered.detach(), "gathered_grad": values.grad,
    },
    f"{folder}/{rank}.pt",
)
dist.destroy_process_group()
"""


def test_two_ranks_equal_one(tmp_path):
    tests = Path(__file__).parents[2]
    environment = os.environ | {"PYTHONPATH": f"{tests.parent}{os.pathsep}{tests}", "OMP_NUM_THREADS": "1"}
    processes = [
        subprocess.Popen(
            [sys.executable, "-c", PROGRAM, str(rank), str(tmp_path / "store"), str(tmp_path)], env=environment
        )
        for rank in (0, 1)
    ]
    assert [process.wait(timeout=600) for process in processes] == [0, 0]
    first, second = (torch.load(tmp_path / f"{rank}.pt", weights_only=False) for rank in (0, 1))

    whole = run(evaluator(use_classification=True), small_batch((3, 0)))
    for name in ("cls", "reg", "centerness", "dot_product_token"):
        # The gradient is averaged over the ranks, so the mean of their losses must be that of one process.
        mean = (getattr(first["losses"], name) + getattr(second["losses"], name)) / 2
        torch.testing.assert_close(mean, getattr(whole, name))
    assert second["losses"].reg == 0 and second["losses"].centerness == 0

    x = torch.arange(12.0).reshape(2, 2, 3, 1).cos().requires_grad_()
    layer = torch.nn.BatchNorm2d(2)
    y = layer(x)
    (y * torch.arange(6.0).reshape(2, 3, 1)).sum().backward()
    torch.testing.assert_close(torch.cat((first["norm"], second["norm"])), y.detach())
    torch.testing.assert_close(torch.cat((first["norm_grad"], second["norm_grad"])), x.grad)

    for rank, result in enumerate((first, second)):
        assert result["gathered"].tolist() == [[0, 0], [1, 1]]
        assert result["gathered_grad"].tolist() == [2.0 * rank] * 2
