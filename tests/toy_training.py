"""A tiny text-conditioned model, its data and one call that trains it, for the tests of the engine."""

from pathlib import Path

import torch
from torch import nn
from torch.utils.data import DataLoader, Dataset

from maskrcnn_benchmark.data.collate_batch import BatchCollator
from maskrcnn_benchmark.data.reproducible import SeededBatchSampler, SeededDataset
from maskrcnn_benchmark.data.transport import PackingCollator, UnpackingLoader
from maskrcnn_benchmark.engine.trainer import Trainer, TrainerOptions
from maskrcnn_benchmark.engine.training.validation import Validation
from maskrcnn_benchmark.structures.bounding_box import BoxList
from maskrcnn_benchmark.utils.checkpoint import Checkpointer
from maskrcnn_benchmark.utils.random_state import seed_everything

CAPTIONS = ("a red cup", "two dogs")


class ToyData(Dataset):
    """Pictures with one box whose place is drawn anew every time; the picture is brighter where the box is."""

    def __init__(self, empty: tuple[int, ...] = ()):
        self.empty = empty

    def __len__(self) -> int:
        return 8

    def __getitem__(self, index: int):
        x, y = torch.randint(0, 8, (2,)).tolist()
        image = torch.zeros(3, 16, 16)
        image[:, y : y + 8, x : x + 8] = 1.0
        boxes = [] if index in self.empty else [[x, y, x + 7, y + 7]]
        target = BoxList(boxes, (16, 16))
        target.add_field("labels", torch.ones(len(boxes), dtype=torch.int64))
        target.add_field("caption", CAPTIONS[index % 2])
        target.add_field("positive_map", torch.full((len(boxes), 256), 0.5))
        target.add_field("greenlight_map", torch.ones(256), per_box=False)
        return image, target, index


class ToyModel(nn.Module):
    """Regresses the mean box of a picture; dropout makes it depend on the random state.

    Args:
        bad_steps: forward passes (counted from 1) whose loss is NaN, with `kind` "nan", or infinite with zero gradient,
            with `kind` "inf".
    """

    def __init__(self, bad_steps: tuple[int, ...] = (), kind: str = "nan"):
        super().__init__()
        self.body = nn.Sequential(nn.Flatten(), nn.Linear(3 * 256, 16), nn.ReLU(), nn.Dropout(0.1))
        self.box = nn.Linear(16, 4)
        self.bad_steps, self.kind, self.calls = bad_steps, kind, 0
        self.seen: list[tuple] = []

    def forward(self, images, targets=None, captions=None, positive_map=None, greenlight_map=None):
        self.calls += 1
        self.seen.append((captions, tuple(positive_map.shape), tuple(greenlight_map.shape)))
        boxes = self.box(self.body(images.tensors))
        wanted = torch.stack([target.bbox.sum(0) for target in targets]) / 16
        loss = (boxes - wanted).abs().mean()
        if self.calls in self.bad_steps:
            loss = loss * torch.nan if self.kind == "nan" else loss * 0 + torch.inf
        return {"loss_reg": loss, "loss_centerness": 0.1 * boxes.pow(2).mean()}


def toy_loader(iterations: int, empty: tuple[int, ...] = (), workers: int = 0, first: int = 0) -> UnpackingLoader:
    """`iterations` batches of two pictures, from picture `first` on."""
    batches = [[(first + 2 * i) % 8, (first + 2 * i + 1) % 8] for i in range(iterations)]
    return UnpackingLoader(
        DataLoader(
            SeededDataset(ToyData(empty)),
            batch_sampler=SeededBatchSampler(batches, seed=3),
            collate_fn=PackingCollator(BatchCollator()),
            num_workers=workers,
            generator=torch.Generator(),
        )
    )


def toy_trainer(
    folder: Path | str,
    iterations: int,
    *,
    resume: bool = False,
    bad_steps: tuple[int, ...] = (),
    kind: str = "nan",
    empty: tuple[int, ...] = (),
    learning_rate: float = 0.01,
    loader: UnpackingLoader | None = None,
    save_to_disk: bool = True,
    device: str = "cpu",
    validation: Validation | None = None,
    **options,
) -> Trainer:
    """A trainer, from the same start every time, or from the last checkpoint of `folder`."""
    seed_everything(1)
    model = ToyModel(bad_steps, kind).to(device)
    optimizer = torch.optim.AdamW(model.parameters(), lr=learning_rate, fused=device != "cpu" or None)
    scheduler = torch.optim.lr_scheduler.StepLR(optimizer, 30, gamma=0.5)
    checkpointer = Checkpointer(model, optimizer, scheduler, str(folder), save_to_disk)
    arguments = {"iteration": 0, **(checkpointer.load() if resume else {})}
    return Trainer(
        model,
        loader or toy_loader(iterations, empty),
        optimizer,
        scheduler,
        checkpointer,
        torch.device(device),
        TrainerOptions(**{"checkpoint_period": 1000, "report_period": 5, **options}),
        arguments,
        validation=validation,
    )
