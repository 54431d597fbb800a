"""Procedural scenes: pictures of drawn things with exact boxes, attributes and captions, reproducible from a seed."""

from maskrcnn_benchmark.scenes.dataset import write_dataset
from maskrcnn_benchmark.scenes.generator import generate_scene
from maskrcnn_benchmark.scenes.kinds import KINDS
from maskrcnn_benchmark.scenes.palette import COLORS, NOVEL_PAIRS
from maskrcnn_benchmark.scenes.scene import Caption, Scene, SceneObject
from maskrcnn_benchmark.scenes.statistics import read_scene_statistics, scene_statistics

__all__ = [
    "COLORS",
    "KINDS",
    "NOVEL_PAIRS",
    "Caption",
    "Scene",
    "SceneObject",
    "generate_scene",
    "read_scene_statistics",
    "scene_statistics",
    "write_dataset",
]
