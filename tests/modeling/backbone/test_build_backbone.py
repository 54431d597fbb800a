"""From the configuration to body and pyramid."""

import pytest
import torch
from tiny_detector import tiny_config

from maskrcnn_benchmark.modeling.backbone import SwinTextTransformer, SwinTransformer, build_backbone
from maskrcnn_benchmark.modeling.language_backbone import TextFeatures


def text(batch: int, tokens: int = 48) -> TextFeatures:
    hidden = torch.randn(batch, tokens, 16)
    return TextFeatures(None, hidden, torch.ones(batch, tokens, dtype=torch.long), hidden)


def test_five_levels_from_stride_four(text_folder):
    backbone = build_backbone(tiny_config(text_folder, "MODEL.BACKBONE.CONV_BODY", "SWINT-FPN"))
    levels = backbone(torch.randn(1, 3, 96, 70))
    assert [tuple(level.shape) for level in levels] == [
        (1, 16, *s) for s in ((24, 18), (12, 9), (6, 5), (3, 3), (2, 2))
    ]
    names = set(backbone.state_dict())
    assert {"body.norm0.weight", "fpn.fpn_inner1.weight", "fpn.fpn_layer1.bias"} <= names
    assert not any(name.startswith("fpn.top_blocks") for name in names)


def test_the_finest_map_of_a_retinanet_body_has_no_norm(text_folder):
    names = set(build_backbone(tiny_config(text_folder)).state_dict())
    assert "body.norm1.weight" in names and "body.norm0.weight" not in names


@pytest.mark.parametrize("version", ["vl", "v2_vl"])
def test_bodies_that_read_text(text_folder, version):
    cfg = tiny_config(text_folder, "MODEL.SWINT.VERSION", version, "MODEL.FPN.RETURN_SWINT_FEATURE_BEFORE_FUSION", True)
    backbone = build_backbone(cfg)
    assert isinstance(backbone.body, SwinTextTransformer) and backbone.reads_text
    given = text(2)
    encoded = backbone.encode(torch.randn(2, 3, 64, 64), given)
    assert encoded.c4.shape[:2] == (2, 32) and encoded.c4.shape[2] == encoded.levels[1].shape[2]
    assert not torch.equal(encoded.text.hidden, given.hidden) and encoded.text.embedded is given.embedded
    with pytest.raises(ValueError, match="reads the text"):
        backbone.encode(torch.randn(1, 3, 64, 64))
    with pytest.raises(ValueError, match="PAD_MAX True"):
        backbone.encode(torch.randn(1, 3, 64, 64), text(1, 7))


@torch.no_grad()
def test_bodies_that_read_text_are_called_with_a_dict(text_folder):
    """The historical call, with the text as a plain dict, and its three results."""
    cfg = tiny_config(text_folder, "MODEL.SWINT.VERSION", "vl", "MODEL.FPN.RETURN_SWINT_FEATURE_BEFORE_FUSION", True)
    backbone = build_backbone(cfg).eval()
    images, given = torch.randn(2, 3, 64, 64), text(2)
    expected = backbone.encode(images, given)
    levels, found, c4 = backbone({"img": images, "lang": {"hidden": given.hidden, "masks": given.masks}})
    assert isinstance(levels, tuple) and all(map(torch.equal, levels, expected.levels))
    assert torch.equal(found["hidden"], expected.text.hidden) and torch.equal(c4, expected.c4)


@pytest.mark.parametrize(("version", "layer_scale", "has_gamma"), [("v1", 1, False), ("v2", 0, False), ("v2", 1, True)])
def test_versions_without_text(text_folder, version, layer_scale, has_gamma):
    options = ("MODEL.SWINT.VERSION", version, "MODEL.SWINT.LAYER_SCALE", layer_scale)
    backbone = build_backbone(tiny_config(text_folder, *options))
    assert type(backbone.body) is SwinTransformer and not backbone.reads_text
    gammas = [value for name, value in backbone.named_parameters() if name.endswith(".gamma")]
    assert bool(gammas) is has_gamma and all((gamma == 1e-4).all() for gamma in gammas)
    given = text(1)
    encoded = backbone.encode(torch.randn(1, 3, 64, 64), given)
    assert encoded.text is None and encoded.c4 is None and len(encoded.levels) == 5


def test_plain_outputs_exist_only_in_v2(text_folder):
    options = ("MODEL.SWINT.OUT_NORM", False, "MODEL.SWINT.VERSION")
    for version, has_norms in (("v1", True), ("v2", False)):
        names = build_backbone(tiny_config(text_folder, *options, version)).body.state_dict()
        assert ("norm2.weight" in names) is has_norms


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (("MODEL.SWINT.VERSION", "v3"), "'v3' is unknown; known are v1, v2, vl, v2_vl"),
        (("MODEL.FPN.USE_DYHEAD", True), "MODEL.FPN.USE_DYHEAD"),
    ],
)
def test_what_does_not_exist_is_named(text_folder, options, message):
    with pytest.raises(ValueError, match=message):
        build_backbone(tiny_config(text_folder, *options))
