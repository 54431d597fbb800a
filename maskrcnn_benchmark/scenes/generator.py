"""From a seed to a picture and everything that is known about it."""

from collections.abc import Iterator

from PIL import Image

from maskrcnn_benchmark.scenes.backgrounds import add_camera, background
from maskrcnn_benchmark.scenes.captions import MIN_CONFUSABLE, kind_list, pair_list, sentence
from maskrcnn_benchmark.scenes.palette import NOVEL_PAIRS
from maskrcnn_benchmark.scenes.placement import Composer
from maskrcnn_benchmark.scenes.rng import SceneRandom
from maskrcnn_benchmark.scenes.sampling import SPLITS, sample_wishes
from maskrcnn_benchmark.scenes.scene import Caption, Scene

WIDTH, HEIGHT = 640, 480
MIN_OBJECTS = 5
_VERSION = "scenes-1"  # part of every random key: raise it when a change of the generator changes the scenes


def generate_scene(seed: int, split: str = "train", index: int = 0) -> tuple[Image.Image, Scene]:
    """The ``index``-th scene of a split under a seed: the same picture, objects and captions in every process.

    Raises: ValueError for a split other than train, val and novel.
    """
    if split not in SPLITS:
        raise ValueError(f"unknown split {split!r}: choose one of {', '.join(SPLITS)}")
    for rng in _streams(f"{_VERSION}/{split}/{seed}/{index}"):
        composer = Composer(background(WIDTH, HEIGHT, rng))
        for wish in sample_wishes(split, rng):
            composer.add(wish, rng)
        scene = Scene(WIDTH, HEIGHT, split, composer.objects())
        captions = _captions(scene, rng)
        if captions is not None:
            scene.captions = captions
            return Image.fromarray(add_camera(composer.canvas, rng)), scene
    raise AssertionError("unreachable: the streams never end")


def _streams(key: str) -> Iterator[SceneRandom]:
    """One stream per attempt: a scene whose things did not fit is drawn anew."""
    attempt = 0
    while True:
        yield SceneRandom(f"{key}/{attempt}")
        attempt += 1


def _captions(scene: Scene, rng: SceneRandom) -> list[Caption] | None:
    """The captions of a scene, or None if it does not hold what its split asks for."""
    if len(scene.objects) < MIN_OBJECTS:
        return None
    if scene.split == "novel" and sum(pair in NOVEL_PAIRS for pair in scene.pairs()) < 2:
        return None
    if scene.split == "train":
        text = sentence(scene, rng)
        lists = [pair_list(scene, rng), kind_list(scene, rng)]
        return lists if text is None else [text, *lists]
    text = sentence(scene, rng, min_confusable=MIN_CONFUSABLE)
    if text is None or len(text.phrases) < 2:
        return None
    return [text] if scene.split == "val" else [text, pair_list(scene, rng)]
