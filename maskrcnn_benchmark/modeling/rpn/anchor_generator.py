"""Anchor generators from the configuration."""

from maskrcnn_benchmark.modeling.anchors import AnchorGenerator

__all__ = ["AnchorGenerator", "make_anchor_generator", "make_anchor_generator_complex"]


def make_anchor_generator(cfg) -> AnchorGenerator:
    """One size per level (with USE_FPN), or all sizes on the only level."""
    return _make(cfg, scales=(1.0,))


def make_anchor_generator_complex(cfg) -> AnchorGenerator:
    """Like `make_anchor_generator`, with SCALES_PER_OCTAVE sizes per level that divide an OCTAVE evenly."""
    octave, number = cfg.MODEL.RPN.OCTAVE, cfg.MODEL.RPN.SCALES_PER_OCTAVE
    return _make(cfg, scales=tuple(octave ** (i / number) for i in range(number)))


def _make(cfg, scales: tuple[float, ...]) -> AnchorGenerator:
    rpn = cfg.MODEL.RPN
    sizes, strides = rpn.ANCHOR_SIZES, rpn.ANCHOR_STRIDE
    if rpn.USE_FPN:
        if len(sizes) != len(strides):
            raise ValueError(f"MODEL.RPN.ANCHOR_SIZES {sizes} and ANCHOR_STRIDE {strides} differ in length")
        levels = [tuple(size * scale for scale in scales) for size in sizes]
    else:
        if len(strides) != 1:
            raise ValueError(f"MODEL.RPN.ANCHOR_STRIDE {strides} must have one entry without MODEL.RPN.USE_FPN")
        levels = [tuple(sizes)]
    return AnchorGenerator(levels, rpn.ASPECT_RATIOS, strides, rpn.STRADDLE_THRESH)
