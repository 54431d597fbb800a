"""Scenes: reproducible, with boxes that are true of the picture, and without novel pairs where none may be."""

import hashlib
import json
import subprocess
import sys
from dataclasses import asdict
from pathlib import Path

import numpy as np
import PIL
import pytest

from maskrcnn_benchmark.scenes import NOVEL_PAIRS, generate_scene
from maskrcnn_benchmark.scenes.placement import Composer
from maskrcnn_benchmark.scenes.rng import SceneRandom
from maskrcnn_benchmark.scenes.sampling import NUM_OBJECTS, SPLITS, sample_wishes

MANIFEST = json.loads((Path(__file__).parents[1] / "golden" / "scenes" / "manifest.json").read_text())
SAMPLE = 25


@pytest.fixture(scope="module", params=SPLITS)
def scenes(request):
    return request.param, [generate_scene(11, request.param, index)[1] for index in range(SAMPLE)]


def test_unknown_split_names_the_choices():
    with pytest.raises(ValueError, match="'test'.*train, val, novel"):
        generate_scene(0, "test")


def test_same_seed_same_scene_in_another_process():
    code = (
        "import hashlib, json; from dataclasses import asdict; from maskrcnn_benchmark.scenes import generate_scene;"
        "picture, scene = generate_scene(5, 'novel', 3);"
        "print(hashlib.sha256(picture.tobytes() + json.dumps(asdict(scene)).encode()).hexdigest())"
    )
    picture, scene = generate_scene(5, "novel", 3)
    here = hashlib.sha256(picture.tobytes() + json.dumps(asdict(scene)).encode()).hexdigest()
    there = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert there.stdout.strip() == here


def test_seed_split_and_index_each_change_the_scene():
    keys = [(0, "train", 0), (1, "train", 0), (0, "val", 0), (0, "train", 1)]
    assert len({generate_scene(*key)[0].tobytes() for key in keys}) == len(keys)


@pytest.mark.skipif(
    MANIFEST["pillow"] != PIL.__version__, reason=f"pixels were recorded with Pillow {MANIFEST['pillow']}"
)
@pytest.mark.parametrize("split", MANIFEST["sets"])
def test_pixels_are_the_recorded_ones(split):
    recorded = MANIFEST["sets"][split]
    for index, checksum in recorded["pixels_sha256"].items():
        picture, _ = generate_scene(recorded["seed"], split, int(index))
        assert hashlib.sha256(picture.tobytes()).hexdigest() == checksum, f"{split} scene {index}"


def test_objects_and_boxes(scenes):
    _, drawn = scenes
    for scene in drawn:
        assert (scene.width, scene.height) == (640, 480)
        assert 5 <= len(scene.objects) <= NUM_OBJECTS[scene.split][1]
        for item in scene.objects:
            x, y, w, h = item.bbox
            assert x >= 0 and y >= 0 and w >= 4 and h >= 4
            assert x + w <= scene.width and y + h <= scene.height
            assert 0.4 <= item.visible_fraction <= 1.0
            assert item.occluded == (item.visible_fraction < 0.9)


def test_novel_pairs_are_only_in_novel(scenes):
    split, drawn = scenes
    for scene in drawn:
        novel = NOVEL_PAIRS.intersection(scene.pairs())
        if split == "novel":
            assert len(novel) >= 2
            assert set(scene.pairs()) - NOVEL_PAIRS
        else:
            assert not novel


def test_box_is_where_the_thing_was_drawn():
    """On an empty ground each thing changes the pixels inside its box only, and reaches all four edges of it."""
    rng = SceneRandom("boxes")
    composer = Composer(np.full((480, 640, 3), 1000.0, dtype=np.float32))
    for wish in sample_wishes("train", rng):
        composer.canvas[:] = 1000.0
        if not composer.add(wish, rng):
            continue
        changed = np.argwhere((composer.canvas != 1000.0).any(axis=2))
        x, y, w, h = composer.objects()[-1].bbox
        is_cut = x == 0 or y == 0 or x + w == 640 or y + h == 480
        slack = 1 if is_cut else 0  # the row along which the frame cuts a slanted edge may hold only its faint fringe
        assert np.abs(changed.min(axis=0) - [y, x]).max() <= slack
        assert np.abs(changed.max(axis=0) + 1 - [y + h, x + w]).max() <= slack
