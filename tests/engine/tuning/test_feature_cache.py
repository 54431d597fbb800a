"""Features of training pictures on disk: the same training, with the image encoder run once for each picture."""

import pytest
import torch
from safetensors import SafetensorError
from tiny_detector import make_text_folder, random_images, scramble, tiny_config
from tuning_data import write_task

from maskrcnn_benchmark.engine.training.training_run import RunOptions, run_training
from maskrcnn_benchmark.engine.tuning import feature_cache
from maskrcnn_benchmark.engine.tuning.feature_cache import FeatureCache, why_not_cached
from maskrcnn_benchmark.engine.tuning.finetune import checked_loaders
from maskrcnn_benchmark.engine.tuning.tuning_modes import tuning_highlevel_override
from maskrcnn_benchmark.modeling.detector import build_detection_model
from maskrcnn_benchmark.utils.weight_files import read_checkpoint

RUN = """
    INPUT.MIN_SIZE_TRAIN 64 INPUT.MIN_SIZE_TEST 64 AUGMENT.MULT_MIN_SIZE_TRAIN () AUGMENT.FLIP_PROB_TRAIN 0.0
    DATALOADER.NUM_WORKERS 0 DATALOADER.ASPECT_RATIO_GROUPING False SOLVER.IMS_PER_BATCH 2 SOLVER.MAX_EPOCH 3
    SOLVER.USE_AMP False SOLVER.MODEL_EMA 0.0 SOLVER.WARMUP_ITERS 0 TEST.DURING_TRAINING False
    DATASETS.DISABLE_SHUFFLE True DATASETS.GENERAL_COPY 2 SOLVER.BASE_LR 0.05
""".split()


@pytest.fixture
def cfg(tmp_path):
    text = make_text_folder(tmp_path / "text")
    task = write_task(tmp_path, "task", train=4, val=2)

    def make(name, *options, mode="language_prompt_v2"):
        node = tiny_config(text, *RUN, "MODEL.WEIGHT", "")
        node.merge_from_file(task)
        node.merge_from_list(["OUTPUT_DIR", str(tmp_path / name), "SOLVER.TUNING_HIGHLEVEL_OVERRIDE", mode, *options])
        (tmp_path / name).mkdir(exist_ok=True)
        return tuning_highlevel_override(node)

    return make


def train(cfg) -> tuple[torch.nn.Module, torch.Tensor]:
    torch.manual_seed(0)
    model = run_training(cfg, torch.device("cpu"), RunOptions(), checked_loaders).model
    return model, read_checkpoint(f"{cfg.OUTPUT_DIR}/model_final.pth")["model"]


@pytest.mark.parametrize("mode", ["language_prompt_v2", "linear_prob"])
def test_training_is_the_same(cfg, tmp_path, mode):
    """Four pictures, twice each, three times: each is encoded once, by a second run none."""
    _, plain = train(cfg("plain", mode=mode))
    cached = ("SOLVER.CACHE_FEATURES", str(tmp_path / "features"))
    model, weights = train(cfg("cached", *cached, mode=mode))
    assert model.picture_memory.encoded == 4 and len(list((tmp_path / "features").rglob("*.safetensors"))) == 4
    torch.testing.assert_close(weights, plain, rtol=1e-4, atol=1e-5)
    again, repeated = train(cfg("again", *cached, mode=mode))
    assert again.picture_memory.encoded == 0
    torch.testing.assert_close(repeated, weights, rtol=0, atol=0)


@pytest.mark.parametrize(
    ("options", "reason"),
    [
        (("AUGMENT.FLIP_PROB_TRAIN", 0.5), "mirrored .AUGMENT.FLIP_PROB_TRAIN 0.5, must be 0"),
        (("AUGMENT.MULT_MIN_SIZE_TRAIN", (64, 96)), "several sizes"),
        (("AUGMENT.EXTENDED", True), "AUGMENT.EXTENDED"),
    ],
)
def test_what_changes_from_step_to_step_is_refused(cfg, tmp_path, options, reason):
    node = cfg("out", "SOLVER.CACHE_FEATURES", str(tmp_path / "features"), *options)
    with pytest.raises(ValueError, match=f"features of pictures cannot be kept with .*{reason}"):
        train(node)


def test_frozen_parts_are_needed(cfg):
    assert why_not_cached(cfg("out"), build_detection_model(cfg("out"))) is None
    full = cfg("out", mode="full")
    assert "is trained" in why_not_cached(full, build_detection_model(full))


@pytest.fixture
def encoder():
    """An encoder of two levels."""
    return scramble(torch.nn.Sequential(torch.nn.Conv2d(3, 4, 8, stride=8)))


def levels_of(encoder):
    return lambda images: (encoder(images).detach(), encoder(images).detach()[..., ::2, ::2])


def named(names, *sizes, seed=1):
    images = random_images(*sizes, seed=seed)
    images.names = names
    return images


def test_features_are_those_of_the_padded_batch(encoder, tmp_path):
    cache = FeatureCache(tmp_path, encoder, "")
    images = named(["a", "b"], (60, 90), (64, 70))
    for _ in range(2):
        torch.testing.assert_close(cache(images, levels_of(encoder)), levels_of(encoder)(images.tensors))
    assert cache.encoded == 2
    wide = named(["a", "c"], (60, 90), (64, 120))  # "a" with other padding
    assert cache(wide, levels_of(encoder))[0].shape[-1] == 16 and cache.encoded == 4


def test_memory_is_limited_and_the_disk_is_read(encoder, tmp_path):
    cache = FeatureCache(tmp_path, encoder, "", memory_bytes=0)
    images = named(["a"], (64, 64))
    first = cache(images, levels_of(encoder))
    assert not cache._kept
    torch.testing.assert_close(cache(images, lambda _: pytest.fail("encoded again")), first, rtol=0, atol=0)


def test_a_damaged_file_is_made_anew(encoder, tmp_path, caplog):
    images = named(["a"], (64, 64))
    first = FeatureCache(tmp_path, encoder, "")(images, levels_of(encoder))
    (path,) = tmp_path.rglob("*.safetensors")
    for content in (b"", path.read_bytes()[:-8]):
        path.write_bytes(content)
        cache = FeatureCache(tmp_path, encoder, "")
        torch.testing.assert_close(cache(images, levels_of(encoder)), first, rtol=0, atol=0)
        assert cache.encoded == 1 and f"features in '{path}' cannot be read" in caplog.text
    assert FeatureCache(tmp_path, encoder, "")(images, lambda _: pytest.fail("encoded again"))


def test_a_full_disk(encoder, tmp_path, monkeypatch):
    def fail(*arguments):
        raise SafetensorError("I/O error: No space left on device (os error 28)")

    monkeypatch.setattr(feature_cache, "save_file", fail)
    with pytest.raises(OSError, match="features of a picture cannot be written to .*No space left"):
        FeatureCache(tmp_path, encoder, "")(named(["a"], (64, 64)), levels_of(encoder))


def test_other_weights_or_settings_are_other_features(encoder, tmp_path):
    images = named(["a"], (64, 64))
    FeatureCache(tmp_path, encoder, "")(images, levels_of(encoder))
    for settings in ("", "another size"):
        with torch.no_grad():
            encoder[0].bias += settings == ""
        cache = FeatureCache(tmp_path, encoder, settings)
        cache(images, levels_of(encoder))
        assert cache.encoded == 1
