"""Small results of fine-tuning: what was trained, and what it was trained on, in one file beside an unchanged model.

Prompt tuning and linear probing leave nearly all weights as they were. An adapter is a .safetensors file with the few
that changed; its header names the model they belong to, the classes, the captions that were read, and the options.
"""

import hashlib
import json
import logging
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import torch
import yaml
from safetensors import SafetensorError, safe_open
from torch import Tensor, nn

from maskrcnn_benchmark.config import CfgNode, default_config
from maskrcnn_benchmark.modeling.rpn.vldyhead import MAX_PROMPT_ROWS, prompt_table
from maskrcnn_benchmark.text.prompt import Prompt
from maskrcnn_benchmark.utils.weight_conversion import PROMPT_TABLE
from maskrcnn_benchmark.utils.weight_files import CheckpointError, save_weights

FORMAT = "glip-adapter-1"
UNREAD = "rpn.head.cls_logits."
"""The class branch: its size follows the number of classes, and models with word scores do not use it."""
MAX_TRAINED_SHARE = 0.1
"""Of all parameters; where more was trained, the checkpoint is the result."""
PRIVATE = (
    "DATASETS.REGISTER", "OUTPUT_DIR", "MODEL.DEVICE", "MODEL.WEIGHT", "PATHS_CATALOG", "SOLVER.CACHE_FEATURES",
)  # fmt: skip
PRIVATE_ENDINGS = ("MODEL_TYPE", "TOKENIZER_TYPE")  # folders of a machine

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Adapter:
    """What a fine-tuning changed.

    Attributes:
        weights: by their names in the model; of the prompt table (PROMPT_TABLE) only the rows that are read.
        base: name of the model; base_hash: of its weights that stayed as they were, see `fingerprint`.
        vocabulary: the classes, label 1 first.
        prompts: the captions that were read in training, which the learnt prompt belongs to.
        mode: of SOLVER.TUNING_HIGHLEVEL_OVERRIDE; config: the values that differ from the default configuration.
    """

    weights: dict[str, Tensor]
    base: str
    base_hash: str
    vocabulary: tuple[str, ...] = ()
    prompts: tuple[Prompt, ...] = ()
    mode: str = ""
    config: dict[str, Any] = field(default_factory=dict)

    @property
    def has_prompt(self) -> bool:
        """Whether it adds to the text, position by position, so that another text would not fit."""
        return PROMPT_TABLE in self.weights

    def save(self, path: str | Path) -> Path:
        """Writes the file, whose name ends in .safetensors; returns its path."""
        metadata = {
            "adapter_format": FORMAT,
            "base": self.base,
            "base_hash": self.base_hash,
            "mode": self.mode,
            "vocabulary": json.dumps(self.vocabulary),
            "prompts": json.dumps([asdict(prompt) for prompt in self.prompts]),
            "config": yaml.safe_dump(self.config),
        }
        if Path(path).suffix != ".safetensors":
            raise ValueError(f"adapter {path}: the name must end with .safetensors")
        return save_weights(self.weights, path, metadata=metadata)

    @classmethod
    def load(cls, path: str | Path) -> "Adapter":
        """Reads a file of `save`. Raises: FileNotFoundError; CheckpointError for any other file, saying what it is."""
        path = Path(path).expanduser()
        if not path.is_file():
            raise FileNotFoundError(f"there is no adapter '{path}'")
        try:
            with safe_open(path, framework="pt") as file:
                metadata = file.metadata() or {}
                weights = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118  not a dict
        except SafetensorError as error:
            raise CheckpointError(f"'{path}' is no adapter: it cannot be read as safetensors ({error})") from error
        if metadata.get("adapter_format") != FORMAT:
            what = metadata.get("adapter_format") or "weights without the header of an adapter"
            raise CheckpointError(f"'{path}' is no adapter that this version reads ({FORMAT}): it holds {what}")
        try:
            return _of_header(weights, metadata)
        except (ValueError, KeyError, TypeError, AttributeError, yaml.YAMLError) as error:
            raise CheckpointError(
                f"'{path}' is a damaged adapter: its header cannot be read ({type(error).__name__}: {error}); take "
                "another copy, or make it anew"
            ) from error

    @torch.no_grad()
    def apply(self, model: nn.Module) -> dict[str, Tensor | None]:
        """Puts the weights into the model they were trained with; returns what stood there, None for nothing.

        Raises: ValueError for another model; it is then unchanged.
        """
        self._check(model)
        parameters, before = dict(model.named_parameters()), {}
        for name in self.weights:
            before[name] = parameters[name].detach().clone() if name in parameters else None
        _put(model, self.weights)
        return before

    def _check(self, model: nn.Module) -> None:
        named = dict(model.named_parameters())
        for name, value in self.weights.items():
            if name == PROMPT_TABLE:
                width, fits = _text_width(model), value.dim() == 2 and len(value) <= MAX_PROMPT_ROWS
                if not fits or value.shape[1] != width:
                    raise ValueError(
                        f"the adapter was trained with {self.base}: its prompt table {tuple(value.shape)} does not fit "
                        f"text of width {width}"
                    )
            elif name not in named or named[name].shape != value.shape:
                there = tuple(named[name].shape) if name in named else "nothing"
                raise ValueError(
                    f"the adapter was trained with {self.base}, this is another model: {name} is "
                    f"{tuple(value.shape)} there and {there} here"
                )
        found = fingerprint(model, self.weights)
        if found != self.base_hash:
            raise ValueError(
                f"the adapter was trained with {self.base} (hash {self.base_hash[:12]} of the weights it leaves "
                f"alone), this model has other weights (hash {found[:12]}): load the model it was trained with"
            )


def _of_header(weights: dict[str, Tensor], metadata: Mapping[str, str]) -> Adapter:
    """Raises: many kinds of errors for texts that `Adapter.save` does not write."""
    return Adapter(
        weights,
        metadata["base"],
        metadata["base_hash"],
        tuple(json.loads(metadata["vocabulary"])),
        tuple(_read_prompt(prompt) for prompt in json.loads(metadata["prompts"])),
        metadata["mode"],
        yaml.safe_load(metadata["config"]),
    )


def _read_prompt(stored: Mapping[str, Any]) -> Prompt:
    """JSON has lists for tuples, and texts for the keys of dicts."""
    return Prompt(
        stored["caption"],
        {int(label): list(tokens) for label, tokens in stored["label_to_tokens"].items()},
        {int(label): phrase for label, phrase in stored["phrases"].items()},
        {int(label): [(begin, end) for begin, end in spans] for label, spans in stored["spans"].items()},
    )


@torch.no_grad()
def restore(model: nn.Module, before: Mapping[str, Tensor | None]) -> None:
    """Undoes an `Adapter.apply` that returned `before`."""
    if PROMPT_TABLE in before and before[PROMPT_TABLE] is None:
        model.rpn.tunable_linear = None
    _put(model, {name: value for name, value in before.items() if value is not None})


def _put(model: nn.Module, weights: Mapping[str, Tensor]) -> None:
    """Copies weights into a model; rows of the prompt table that are not given become zero."""
    if PROMPT_TABLE in weights and model.rpn.tunable_linear is None:
        model.rpn.tunable_linear = prompt_table(_text_width(model)).to(next(model.parameters()).device)
    parameters = dict(model.named_parameters())
    for name, value in weights.items():
        target = parameters[name]
        if name == PROMPT_TABLE:
            target.zero_()
            target = target[: len(value)]
        target.copy_(value)
    forget = getattr(model, "forget_prepared_weights", None)
    if forget is not None:
        forget()


def _text_width(model: nn.Module) -> int:
    """Width of the text features: that of the bias of a word, which every model with word scores has."""
    return model.rpn.head.bias_lang.shape[0]


def fingerprint(model: nn.Module, without: Iterable[str]) -> str:
    """SHA-256 of the names and numbers (as float32) of a model's parameters, but for those of some names.

    The class branch (UNREAD) and a prompt table that is zero count as absent, as nothing depends on them.
    """
    digest, left_out = hashlib.sha256(), set(without)
    for name, parameter in sorted(model.named_parameters(), key=lambda item: item[0]):
        is_unread = name.startswith(UNREAD) and model.rpn.head.use_dot_product
        if name in left_out or is_unread or (name == PROMPT_TABLE and not parameter.any()):
            continue
        digest.update(f"{name}{tuple(parameter.shape)}".encode())
        digest.update(parameter.detach().to("cpu", torch.float32).contiguous().numpy().data)
    return digest.hexdigest()


def trained_weights(model: nn.Module) -> dict[str, Tensor]:
    """What a model in train mode trains, on the CPU; of the prompt table the rows that a text can reach.

    Raises: ValueError where that is more than a small part of the model.
    """
    named = {name: p for name, p in model.named_parameters() if p.requires_grad}
    share = sum(p.numel() for p in named.values()) / sum(p.numel() for p in model.parameters())
    if share > MAX_TRAINED_SHARE:
        raise ValueError(
            f"{share:.0%} of the parameters are trained (SOLVER.TUNING_HIGHLEVEL_OVERRIDE): an adapter is for prompt "
            "tuning and linear probing, here the checkpoint is the result"
        )
    rows = model.text_policy.max_length
    return {name: (p[:rows] if name == PROMPT_TABLE else p).detach().cpu().clone() for name, p in named.items()}


def make_adapter(
    model: nn.Module, cfg: CfgNode, base: str, vocabulary: Iterable[str], prompts: Iterable[Prompt]
) -> Adapter:
    """The adapter of a fine-tuned model; `cfg` is what it was trained with, `base` the name of what it started from.

    The mode of the model's modules is as before. Raises: ValueError, see `trained_weights`.
    """
    is_training = model.training
    weights = trained_weights(model.train())
    model.train(is_training)
    return Adapter(
        weights,
        base,
        fingerprint(model, weights),
        tuple(vocabulary),
        tuple(prompts),
        cfg.SOLVER.TUNING_HIGHLEVEL_OVERRIDE or "",
        dict(_changed(cfg)),
    )


def _changed(cfg: CfgNode) -> Iterator[tuple[str, Any]]:
    """Names and values that differ from the default configuration, but for what belongs to a machine."""

    def values(node: CfgNode, prefix: str = "") -> Iterator[tuple[str, Any]]:
        for name, value in node.items():
            if prefix + name in PRIVATE or name in PRIVATE_ENDINGS:
                continue
            if isinstance(value, CfgNode):
                yield from values(value, f"{prefix}{name}.")
            else:
                yield prefix + name, value

    defaults = dict(values(default_config()))
    for name, value in values(cfg):
        if name not in defaults or defaults[name] != value:
            yield name, json.loads(json.dumps(value, default=str))
