"""Loads published weights into a model: which stored names are renamed, ignored or resized is a table in this file.

Three families of files are known: checkpoints of the detector itself, ImageNet Swin Transformers, which go into the
visual body, and BERT or RoBERTa encoders, which go into the language body. A file whose names lack the beginning that a
part of the model has goes into that part. What does not fit is an error.
"""

import logging
import math
import os
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import NamedTuple

import torch.nn.functional as F
from torch import Tensor, nn

from maskrcnn_benchmark.utils.model_zoo import resolve_weights
from maskrcnn_benchmark.utils.sharded_state import shard_like_model
from maskrcnn_benchmark.utils.weight_files import CheckpointError, read_checkpoint, select_state_dict, strip_wrappers

logger = logging.getLogger(__name__)


class Rename(NamedTuple):
    """A stored name changes: ``pattern`` is replaced by ``replacement`` wherever it is found."""

    pattern: str
    replacement: str


class KeyRule(NamedTuple):
    """How to treat the names in which ``pattern`` is found."""

    pattern: str
    reason: str


class Family(NamedTuple):
    """A kind of file: recognised by the stored name ``marker``, it fills the one module that has the same name."""

    name: str
    marker: str
    renames: tuple[Rename, ...] = ()
    surplus: tuple[KeyRule, ...] = ()  # stored, without a place in the module
    absent: tuple[KeyRule, ...] = ()  # in the module, not stored


# Applied to every file.
RENAMES = (
    Rename(r"LayerNorm\.gamma$", "LayerNorm.weight"),  # BERT as converted from TensorFlow
    Rename(r"LayerNorm\.beta$", "LayerNorm.bias"),
)

# Computed when the model is built: never read from a file and never missing from one.
COMPUTED = (
    KeyRule(r"(^|\.)relative_position_index$", "follows from the window size"),
    KeyRule(r"(^|\.)attn_mask$", "follows from the picture size"),
    KeyRule(r"(^|\.)cell_anchors(\.|$)", "follows from the anchor configuration"),
    KeyRule(r"embeddings\.(position_ids|token_type_ids)$", "a range or zeros, stored by older transformers"),
)

# Parts that predictions do not need: a file may lack them, or have them without a place to go.
OPTIONAL = (
    KeyRule(r"(^|\.)pooler\.", "the text pooler is never used"),
    KeyRule(r"^rpn\.head\.mlm_head\.", "masked-word training head"),
    KeyRule(r"^rpn\.loss_evaluator\.", "projections of the shallow contrastive loss"),
)

# Their size follows the closed-set class list, which grounding replaces by words: another size keeps the initial value.
RESIZED_BY_CLASSES = (KeyRule(r"^rpn\.head\.cls_logits\.", "sized by the class list"),)

DETECTOR = Family(  # a file with the model's own names
    "detector",
    "",
    surplus=(
        KeyRule(r"^rpn\.head\.token_logits\.", "head of a loss that the configuration leaves out"),
        KeyRule(r"^rpn\.head\.contrastive_align_projection_", "head of a loss that the configuration leaves out"),
    ),
    absent=(KeyRule(r"^rpn\.tunable_linear\.", "prompt-tuning offsets, zero until tuned"),),
)
FAMILIES = (
    Family(
        "ImageNet Swin Transformer",
        "patch_embed.proj.weight",
        surplus=(
            KeyRule(r"^head\.", "ImageNet classifier"),
            KeyRule(r"^norm\.", "norm before the classifier"),
            KeyRule(r"^absolute_pos_embed$", "position embedding of the classification model"),
        ),
        absent=(KeyRule(r"^norm[0-3]\.", "output norms, trained with the detector"),),
    ),
    Family(
        "BERT encoder",
        "embeddings.word_embeddings.weight",
        renames=(Rename(r"^(bert|roberta)\.", ""),),
        surplus=(KeyRule(r"^(cls|lm_head)\.", "heads of text pre-training"),),
    ),
)

BIAS_TABLE = "relative_position_bias_table"
PROMPT_TABLE = "rpn.tunable_linear.weight"


class Mismatch(NamedTuple):
    """An entry whose stored shape is not the model's."""

    name: str
    file_shape: tuple[int, ...]
    model_shape: tuple[int, ...]

    def __str__(self) -> str:
        return f"{self.name} (file {list(self.file_shape)}, model {list(self.model_shape)})"


@dataclass
class LoadReport:
    """What became of every stored and every wanted weight; names are the model's, without ``module.``.

    Attributes:
        loaded: filled from the file; resized: those among them that were interpolated to another window size.
        missing: wanted by the model (within the part the file is for) and not in the file; optional ones included.
        unexpected: in the file, without a place in the model; ignored: the same, but known to be superfluous.
        mismatched: shapes differ; the model keeps its value.
        problems: the missing, unexpected and mismatched entries that the table does not excuse.
    """

    source: str
    loaded: list[str] = field(default_factory=list)
    resized: list[str] = field(default_factory=list)
    missing: list[str] = field(default_factory=list)
    unexpected: list[str] = field(default_factory=list)
    ignored: list[str] = field(default_factory=list)
    mismatched: list[Mismatch] = field(default_factory=list)
    problems: list[str] = field(default_factory=list)

    def summary(self) -> str:
        """One line with all counts, and examples of what was not simply loaded."""
        return f"{self.source}: {len(self.loaded)} loaded{self.differences()}"

    def differences(self) -> str:
        """The counts and examples alone, each after a semicolon; problems come before excused differences."""
        problems = set(self.problems)
        parts = []
        for title, names in (
            ("resized", self.resized),
            ("missing", self.missing),
            ("unexpected", self.unexpected),
            ("of another shape", [str(mismatch) for mismatch in self.mismatched]),
        ):
            if names:
                examples = [name for name in names if name in problems] or names
                parts.append(f"; {len(names)} {title}, e.g. {', '.join(examples[:3])}")
        return "".join(parts)


def load_weights(
    model: nn.Module,
    path_or_name: str | os.PathLike[str],
    *,
    key: str = "model",
    strict: bool = True,
    trust: bool = False,
) -> LoadReport:
    """Load a weight file, a folder with one, or a published name (see `model_zoo.PUBLISHED`) into ``model``.

    Args:
        key: entry of the checkpoint to take, ``model`` or ``model_ema``.
        strict: any difference that the tables above do not excuse is an error. If False it is only a warning, as long
            as at least half of the stored weights find their place.
        trust: unpickle arbitrary Python objects; only for files whose source you trust.
    Raises: FileNotFoundError; CheckpointError (a ValueError) for an unreadable file or one of another architecture. The
        model is unchanged then.
    """
    path = resolve_weights(path_or_name)
    stored = select_state_dict(read_checkpoint(path, trust=trust), key, str(path))
    return load_stored_weights(model, stored, source=str(path), strict=strict)


def load_stored_weights(
    model: nn.Module, stored: Mapping[str, Tensor], *, source: str = "state dict", strict: bool = True
) -> LoadReport:
    """Like `load_weights`, from a state dict in memory."""
    target = unwrap_model(model)
    wanted = target.state_dict()
    report = LoadReport(source)
    named, family, scope = _rename(strip_wrappers(dict(stored)), wanted, source)
    fitting = _compare(named, wanted, family, scope, report)
    _judge(report, len(wanted), len(named), type(target).__name__, strict)
    target.load_state_dict(shard_like_model(fitting, wanted), strict=False)
    return report


def _rename(
    stored: dict[str, Tensor], wanted: Mapping[str, Tensor], source: str
) -> tuple[dict[str, Tensor], Family, str]:
    """Give the stored tensors the model's names; also return the file's family and the prefix of the part it fills."""
    stored = {_apply(RENAMES, name): value for name, value in stored.items()}
    for family in FAMILIES:
        renamed = {_apply(family.renames, name): value for name, value in stored.items()}
        if family.marker not in renamed:
            continue
        places = [name for name in wanted if f".{name}".endswith(f".{family.marker}")]
        if len(places) != 1:
            raise CheckpointError(
                f"{source} holds a {family.name}, and the model has {len(places)} places for one "
                f"({', '.join(places) or family.marker + ' nowhere'})"
            )
        scope = places[0].removesuffix(family.marker)
        return {scope + name: value for name, value in renamed.items()}, family, scope
    return _with_lost_prefix(stored, wanted)


def _with_lost_prefix(stored: dict[str, Tensor], wanted: Mapping[str, Tensor]) -> tuple[dict[str, Tensor], Family, str]:
    """Like `_rename` for a file with the model's own names, of which all or some may lack one and the same beginning.

    A file where all lack it is that of a part of the model. Where several beginnings would do, names stay.
    """
    lacking = [name for name in stored if not (name in wanted or _matches(COMPUTED, name) or _is_surplus(name))]
    first = next(iter(lacking), "")
    beginnings = [name.removesuffix(first) for name in wanted if first and name.endswith(f".{first}")]
    fitting = [beginning for beginning in beginnings if all(beginning + name in wanted for name in lacking)]
    if len(fitting) != 1:
        return stored, DETECTOR, ""
    named = {name if name in wanted else fitting[0] + name: value for name, value in stored.items()}
    return named, DETECTOR, fitting[0] if wanted.keys().isdisjoint(stored) else ""


def _compare(
    named: Mapping[str, Tensor], wanted: Mapping[str, Tensor], family: Family, scope: str, report: LoadReport
) -> dict[str, Tensor]:
    """Fill ``report`` with what becomes of each entry, and return the tensors to load."""
    fitting: dict[str, Tensor] = {}
    for name, value in named.items():
        if _matches(COMPUTED, name) or (name not in wanted and _is_surplus(name, family, scope)):
            report.ignored.append(name)
            continue
        if name not in wanted:
            report.unexpected.append(name)
            continue
        shape = wanted[name].shape
        if value.shape != shape and name.endswith(BIAS_TABLE) and len(shape) == 2:
            resized = resize_bias_table(value, shape[0])
            if resized is not None and resized.shape == shape:
                report.resized.append(name)
                value = resized
        if value.shape == shape:
            report.loaded.append(name)
            fitting[name] = value
            continue
        mismatch = Mismatch(name, tuple(value.shape), tuple(shape))
        report.mismatched.append(mismatch)
        if not _matches(RESIZED_BY_CLASSES, name):
            report.problems.append(str(mismatch))
    report.missing = [
        name for name in wanted if name.startswith(scope) and name not in named and not _matches(COMPUTED, name)
    ]
    report.problems += report.unexpected
    report.problems += [name for name in report.missing if not _may_be_absent(name, family, scope)]
    return fitting


def _apply(renames: tuple[Rename, ...], name: str) -> str:
    for rename in renames:
        name = re.sub(rename.pattern, rename.replacement, name)
    return name


def _matches(rules: tuple[KeyRule, ...], name: str) -> bool:
    return any(re.search(rule.pattern, name) for rule in rules)


def _is_surplus(name: str, family: Family = DETECTOR, scope: str = "") -> bool:
    return _matches(OPTIONAL, name) or _matches(family.surplus, name.removeprefix(scope))


def _may_be_absent(name: str, family: Family, scope: str) -> bool:
    return _matches(OPTIONAL, name) or _matches(family.absent, name.removeprefix(scope))


def _judge(report: LoadReport, num_wanted: int, num_stored: int, model_name: str, strict: bool) -> None:
    """Log the report, or raise if it means that the file belongs to another model."""
    if report.resized:
        logger.warning("%s: resized %d position tables to another window size", report.source, len(report.resized))
    if not report.problems:
        logger.info("%s", report.summary())
        return
    fits_partly = len(report.loaded) * 2 >= num_stored - len(report.ignored) and report.loaded
    if strict or not fits_partly:
        hint = "; strict=False (--allow-partial of tools/train_net.py) loads what fits" if fits_partly else ""
        if PROMPT_TABLE in report.unexpected:
            hint += f"; {PROMPT_TABLE} is a learnt prompt: set MODEL.DYHEAD.FUSE_CONFIG.ADD_LINEAR_LAYER True"
        raise CheckpointError(
            f"{report.source} holds weights of another architecture: it fills {len(report.loaded)} of the {num_wanted} "
            f"entries of {model_name}{report.differences()}. Choose the configuration that belongs to the file{hint}"
        )
    logger.warning("%s", report.summary())


def unwrap_model(model: nn.Module) -> nn.Module:
    """The model inside DataParallel, DistributedDataParallel and torch.compile wrappers."""
    while True:
        if isinstance(model, (nn.DataParallel, nn.parallel.DistributedDataParallel)):
            model = model.module
        elif isinstance(inner := getattr(model, "_orig_mod", None), nn.Module):
            model = inner
        else:
            return model


def resize_bias_table(table: Tensor, length: int) -> Tensor | None:
    """Interpolate a Swin bias table ((2w-1)^2, M) of window w bicubically to ``length`` = (2v-1)^2 rows.

    Returns None if one of the two is not the table of a square window.
    """
    old, new = math.isqrt(table.shape[0]), math.isqrt(length)
    if table.dim() != 2 or old * old != table.shape[0] or new * new != length or old % 2 == 0 or new % 2 == 0:
        return None
    grid = table.float().t().reshape(1, -1, old, old)  # (1, M, 2w-1, 2w-1)
    resized = F.interpolate(grid, size=(new, new), mode="bicubic", align_corners=False)
    return resized.reshape(-1, length).t().to(table.dtype)
