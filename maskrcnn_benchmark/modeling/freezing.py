"""Which parts of the detector are trained: the freezing rules of the configuration and of GLIP's tuning modes."""

import dataclasses

from torch import nn

# With LINEAR_PROB only parameters of the head whose name contains one of these stay trainable.
LINEAR_PROBE_NAMES = (
    "bbox_pred",
    "cls_logits",
    "centerness",
    "cosine_scale",
    "dot_product_projection_text",
    "head.log_scale",
    "head.bias_lang",
    "head.bias0",
)


@dataclasses.dataclass(frozen=True)
class FreezingPlan:
    """Parts that stay fixed. Freezing only ever takes gradients away, except for the learnt prompt."""

    body: bool = False
    fpn: bool = False
    head: bool = False
    language: bool = False
    linear_probe: bool = False
    class_logits: bool = False
    keep_prompt: bool = False

    @classmethod
    def from_config(cls, cfg) -> "FreezingPlan":
        model, fuse = cfg.MODEL, cfg.MODEL.DYHEAD.FUSE_CONFIG
        if model.LINEAR_PROB and not (model.BACKBONE.FREEZE and model.FPN.FREEZE):
            raise ValueError("MODEL.LINEAR_PROB needs MODEL.BACKBONE.FREEZE True and MODEL.FPN.FREEZE True")
        return cls(
            body=model.BACKBONE.FREEZE,
            fpn=model.FPN.FREEZE,
            head=model.RPN.FREEZE,
            language=model.LANGUAGE_BACKBONE.FREEZE,
            linear_probe=model.LINEAR_PROB,
            class_logits=fuse.USE_DOT_PRODUCT_TOKEN_LOSS,
            keep_prompt=fuse.ADD_LINEAR_LAYER,
        )

    def freeze_at_construction(self, model: nn.Module) -> None:
        """What the original freezes before `train()` is called for the first time."""
        if self.class_logits:
            model.rpn.head.cls_logits.requires_grad_(False)
        if self.language:
            model.language_backbone.requires_grad_(False)

    def apply(self, model: nn.Module) -> None:
        """Freezes a GeneralizedVLRCNN after its modules were put in train or eval mode."""
        if self.body:
            _fix(model.backbone.body)
        if self.fpn:
            _fix(model.backbone.fpn)
        if self.head:
            model.rpn.head.eval()
            model.rpn.requires_grad_(False)
        if self.linear_probe:
            for name, parameter in model.rpn.named_parameters(prefix="rpn"):
                if not any(part in name for part in LINEAR_PROBE_NAMES):
                    parameter.requires_grad_(False)
        if self.class_logits:
            _fix(model.rpn.head.cls_logits)
        if self.keep_prompt:
            model.rpn.tunable_linear.requires_grad_(True)
        if self.language:
            _fix(model.language_backbone)


def _fix(module: nn.Module) -> None:
    module.eval()
    module.requires_grad_(False)
