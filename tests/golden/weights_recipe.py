"""Deterministic weights from a parameter's state-dict NAME and SHAPE alone (numpy only).

value = float32(mean + std * z),  z = RandomState(crc32(name + salt)).standard_normal(shape); every golden here uses
salt ''.
"""

import math
import re
import zlib

import numpy as np

# dot-product prior bias (rpn.head.bias0), chosen per config so that 50..100 detections survive
BIAS0 = {
    "glip_Swin_T_O365_GoldG": -9.1,
    "glip_A_Swin_T_O365": -9.3,
    "glip_Swin_L": -9.0,
}
DEFAULT_BIAS0 = -4.6  # used for every training golden
TEXT_GAIN = 16.0  # gain of the text projection of the dot-product head


def rule(name, shape):
    """-> (mean, std).  First matching line wins."""
    fan_in = int(np.prod(shape[1:])) if len(shape) > 1 else 1
    leaf = name.rsplit(".", 1)[-1]
    if leaf in ("log_scale", "shallow_log_scale"):
        return 0.0, 0.0
    if leaf == "bias0":
        return DEFAULT_BIAS0, 0.0  # then override with BIAS0[config]
    if leaf == "bias_lang":
        return 0.0, 0.1
    if name.endswith(("cls_logits.bias", "token_logits.bias")):
        return -math.log(99.0), 0.0
    if leaf in ("gamma_v", "gamma_l", "gamma"):
        return 1.0 / 6.0, 0.02
    if re.search(r"scales\.\d+\.scale$", name):
        return 1.0, 0.1
    if leaf == "relative_position_bias_table":
        return 0.0, 0.3
    if leaf == "tunable_linear.weight" or name.endswith("tunable_linear.weight"):
        return 0.0, 0.3
    if re.search(r"(norm|LayerNorm|\.bn)\d*(_[vl])?\.(weight|bias)$", name) or ".layer_norm" in name:
        return (1.0, 0.1) if leaf == "weight" else (0.0, 0.05)
    if name.endswith("word_embeddings.weight"):
        return 0.0, 0.05
    if "embeddings." in name:
        return 0.0, 0.02
    if name.endswith(("attention.self.query.weight", "attention.self.key.weight")):
        return 0.0, 2.0 / math.sqrt(fan_in)
    if name.endswith("attention.output.dense.weight"):
        return 0.0, 0.3 / math.sqrt(fan_in)
    if name.endswith("output.dense.weight"):
        return 0.0, 0.5 / math.sqrt(fan_in)
    if name.endswith(".offset.weight"):
        return 0.0, 0.3 / math.sqrt(fan_in)
    if name.endswith(".offset.bias"):
        return 0.0, 0.8
    if name.endswith("AttnConv.1.weight"):
        return 0.0, 4.0 / math.sqrt(fan_in)
    if name.endswith("AttnConv.1.bias"):
        return 0.5, 0.5
    if name.endswith("relu.fc.0.weight"):
        return 0.0, 4.0 / math.sqrt(fan_in)
    if name.endswith("relu.fc.2.weight"):
        return 0.0, 2.0 / math.sqrt(fan_in)
    if name.endswith("head.bbox_pred.weight"):
        return 0.0, 2.0 / math.sqrt(fan_in)
    if name.endswith("dot_product_projection_text.weight"):
        return 0.0, TEXT_GAIN / math.sqrt(fan_in)
    if len(shape) >= 2:
        return 0.0, 1.0 / math.sqrt(fan_in)
    return 0.0, 0.02


HIGHPASS = re.compile(r"DyConv\.\d\.conv\.weight$")


def fill(name, shape, salt=""):
    rng = np.random.RandomState(zlib.crc32((name + salt).encode("utf-8")) & 0xFFFFFFFF)
    mean, std = rule(name, tuple(shape))
    z = rng.standard_normal(tuple(shape))
    if HIGHPASS.search(name):  # 3x3 kernels of the dynamic convs: remove 80 % of the tap mean
        z = z - 0.8 * z.mean(axis=(2, 3), keepdims=True)
    return (mean + std * z).astype(np.float32)
