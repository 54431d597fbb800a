"""BERT and RoBERTa as text encoders, by name or from a local folder, with or without weights."""

import logging

from torch import Tensor, nn

from maskrcnn_benchmark.text.tokenizer import find_text_folder
from maskrcnn_benchmark.utils.download import hub_attempts

from .features import TextFeatures

logger = logging.getLogger(__name__)

STANDARD_CONFIGS = {
    "bert-base-uncased": {"model_type": "bert"},
    "roberta-base": {
        "model_type": "roberta",
        "vocab_size": 50265,
        "max_position_embeddings": 514,
        "type_vocab_size": 1,
        "layer_norm_eps": 1e-5,
        "pad_token_id": 1,
        "bos_token_id": 0,
        "eos_token_id": 2,
    },
}
WEIGHT_FILES = (
    "model.safetensors",
    "pytorch_model.bin",
    "model.safetensors.index.json",
    "pytorch_model.bin.index.json",
)


def load_text_config(name: str):
    """The transformers configuration of a hub name or a local folder; known names also work without a network.

    Raises: ValueError if the folder has no config.json, the type is not supported or the name cannot be resolved.
    """
    from transformers import AutoConfig, BertConfig, RobertaConfig

    classes = {"bert": BertConfig, "roberta": RobertaConfig}
    folder = find_text_folder(name)
    if folder is not None:
        if not (folder / "config.json").is_file():
            raise ValueError(f"MODEL.LANGUAGE_BACKBONE.MODEL_TYPE folder {str(folder)!r} has no config.json")
        config = AutoConfig.from_pretrained(folder, local_files_only=True)
    elif name in STANDARD_CONFIGS:
        known = dict(STANDARD_CONFIGS[name])
        config = classes[known.pop("model_type")](**known)
    else:
        config = _config_of_hub(AutoConfig, name)
    if config.model_type not in classes:
        raise ValueError(
            f"text encoder {name!r} has type {config.model_type!r}; supported are {', '.join(classes)}, clip"
        )
    return config


def _config_of_hub(config_class, name: str):
    failure: Exception | None = None
    for local_only in hub_attempts():
        try:
            return config_class.from_pretrained(name, local_files_only=local_only)
        except (OSError, ValueError) as error:
            failure = error
    raise ValueError(
        f"MODEL.LANGUAGE_BACKBONE.MODEL_TYPE={name!r} is neither a folder with a config.json nor a reachable "
        f"model of the hub; known names are {', '.join([*STANDARD_CONFIGS, 'clip'])}"
    ) from failure


def _load_pretrained(model_class, name: str, config):
    """The pretrained encoder, or None with one warning where there are no weights to load."""
    folder = find_text_folder(name)
    if folder is not None:
        if any((folder / file).is_file() for file in WEIGHT_FILES):
            return model_class.from_pretrained(folder, config=config, add_pooling_layer=False, local_files_only=True)
        reason = "the folder has no weights"
    else:
        for local_only in hub_attempts():
            try:
                return model_class.from_pretrained(
                    name, config=config, add_pooling_layer=False, local_files_only=local_only
                )
            except OSError:
                reason = "the hub cannot be reached"
    logger.warning(
        "Text encoder %r starts untrained because %s; a GLIP checkpoint brings the text weights with it.", name, reason
    )
    return None


class BertEncoder(nn.Module):
    """A transformers BERT or RoBERTa without pooler, under the attribute `model`.

    Args:
        model: BertModel or RobertaModel.
        num_layers: number of last layers that are averaged into `embedded`; as in the original the mean is divided by
            their number a second time, which matters for more than one.
        trim: cut ids and mask to the longest caption of the batch (models without the dot-product head).
    """

    def __init__(self, model: nn.Module, *, num_layers: int = 1, trim: bool = False):
        super().__init__()
        self.model = model
        self.num_layers, self.trim = num_layers, trim

    @classmethod
    def from_config(cls, cfg) -> "BertEncoder":
        from transformers import BertModel, RobertaModel

        language = cfg.MODEL.LANGUAGE_BACKBONE
        logger.info("LANGUAGE BACKBONE USE GRADIENT CHECKPOINTING:  %s", language.USE_CHECKPOINT)
        config = load_text_config(language.MODEL_TYPE)
        model_class = RobertaModel if config.model_type == "roberta" else BertModel
        model = _load_pretrained(model_class, language.MODEL_TYPE, config)
        if model is None:
            model = model_class(config, add_pooling_layer=False)
        model.float()
        if config.hidden_size != language.LANG_DIM:
            raise ValueError(
                f"text encoder {language.MODEL_TYPE!r} has {config.hidden_size} channels, "
                f"but MODEL.LANGUAGE_BACKBONE.LANG_DIM={language.LANG_DIM}"
            )
        if language.USE_CHECKPOINT:
            model.gradient_checkpointing_enable(gradient_checkpointing_kwargs={"use_reentrant": False})
        trim = not cfg.MODEL.DYHEAD.FUSE_CONFIG.USE_DOT_PRODUCT_TOKEN_LOSS
        return cls(model, num_layers=language.N_LAYERS, trim=trim)

    def forward(self, tokens: dict[str, Tensor]) -> TextFeatures:
        """tokens: input_ids and attention_mask, both (B, T) -> features of the same T, or of the longest caption."""
        ids, mask = tokens["input_ids"], tokens["attention_mask"]
        if self.trim:
            longest = int(mask.sum(-1).max())
            ids, mask = ids[:, :longest], mask[:, :longest]
        needs_all = self.num_layers > 1
        output = self.model(input_ids=ids, attention_mask=mask, output_hidden_states=needs_all)
        hidden = output.last_hidden_state
        features = hidden
        if needs_all:
            features = sum(output.hidden_states[-self.num_layers :]) / self.num_layers / self.num_layers
        embedded = features * mask.unsqueeze(-1).to(features.dtype)
        aggregate = embedded.sum(1) / mask.sum(-1, keepdim=True).to(embedded.dtype)
        return TextFeatures(aggregate=aggregate, embedded=embedded, masks=mask, hidden=hidden)
