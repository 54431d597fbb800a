"""Classes with descriptions as parallel sentences, through the whole detector."""

import pytest
import torch
import yaml
from tiny_detector import TEXT_DIM, assert_same_boxes, make_text_folder, random_images, scramble, target, tiny_config

from maskrcnn_benchmark.modeling.detector import build_detection_model, disable_stochasticity
from maskrcnn_benchmark.modeling.language_backbone import TextFeatures

ENTRIES = {
    "cup_n": {"clean_name": "cup", "def_wiki": "a small blue box"},
    "dog_n": {"clean_name": "dog", "def_wiki": "a big animal"},
    "star_n": {"clean_name": "star", "def_wiki": "a red light far away"},
    "tree_n": {"clean_name": "tree", "def_wiki": ""},
}
SIZE = (70, 90)


@pytest.fixture
def build(tmp_path):
    def build(*options):
        path = tmp_path / "knowledge.yaml"
        path.write_text(yaml.safe_dump(ENTRIES), encoding="utf-8")
        cfg = tiny_config(
            make_text_folder(tmp_path / "text"),
            *("GLIPKNOW.PARALLEL_LANGUAGE_INPUT", True, "GLIPKNOW.KNOWLEDGE_FILE", str(path)),
            *("GLIPKNOW.KNOWLEDGE_TYPE", "def_wiki"),
            *options,
        )
        torch.manual_seed(0)
        model = scramble(build_detection_model(cfg))
        with torch.no_grad():
            model.rpn.head.bias0.fill_(-2.0)
        return disable_stochasticity(model).eval()

    return build


def by_hand(model, names, aggregation: str, batch: int = 1) -> TextFeatures:
    """Text whose tokens are the classes and, masked, an empty sentence."""
    sentences = ["cup: a small blue box", "dog: a big animal", "star: a red light far away", "tree"]
    sentences = [sentences[list(ENTRIES).index(name)] if name in ENTRIES else name for name in names] + [""]
    rows = []
    for sentence in sentences:
        tokens = model.tokenizer(sentence, return_tensors="pt")
        hidden = model.language_backbone.body.model(**tokens).last_hidden_state[0]
        rows.append(hidden[0] if aggregation == "first" else hidden.mean(0))
    features = torch.stack(rows)[None].expand(batch, -1, -1)
    masks = torch.ones(batch, len(rows), dtype=torch.int64)
    masks[:, -1] = 0
    return TextFeatures(None, features, masks, features)


@pytest.mark.parametrize("aggregation", ["first", "mean"])
@torch.no_grad()
def test_detection_reads_one_sentence_per_class(build, aggregation):
    model = build("GLIPKNOW.LAN_FEATURE_AGG_TYPE", aggregation)
    images, names = random_images(SIZE), ["star_n", "cup_n", "unknown"]
    positive_map = {1: [0], 2: [1], 3: [2]}
    ours = model(images, captions=[names], positive_map=positive_map)
    assert set(ours[0].get_field("labels").tolist()) == {1, 2, 3}
    text = by_hand(model, names, aggregation)
    assert_same_boxes(ours, model.detect(model.encode_image(images), text, positive_map), atol=1e-5)


@pytest.mark.parametrize(
    ("captions", "sizes"),
    [(None, [SIZE]), (["star_n. cup_n"], [SIZE]), ([["star_n"], ["cup_n"]], [SIZE]), ([["star_n"]], [SIZE, SIZE])],
)
def test_detection_takes_one_image_and_one_list(build, captions, sizes):
    with pytest.raises(ValueError, match=r"one image and captions=\[list of class names\]"):
        build()(random_images(*sizes), captions=captions, positive_map={1: [0]})


def two_targets():
    targets = [target([[1, 2, 30, 40], [10, 10, 60, 60]], (90, 70)), target([[5, 5, 50, 50]], (90, 70))]
    for boxes, names in zip(targets, (["star_n", "dog_n"], ["tree_n"]), strict=True):
        boxes.add_field("label_names", names)
    return targets


@pytest.mark.parametrize("limit", [-1, 2, 3, 6])
def test_training_makes_its_own_captions(build, limit):
    """Losses equal those of the same text and positive map made by hand; classes without a place have empty rows."""
    model = build("GLIPKNOW.MAX_NUM_CLASSES_PER_BATCH_TRAIN", limit).train()
    drawn = []
    knowledge = model.knowledge
    training_classes = type(knowledge).training_classes
    object.__setattr__(
        knowledge, "training_classes", lambda present: drawn.append(training_classes(knowledge, present)) or drawn[-1]
    )
    images = random_images(SIZE, SIZE)
    losses = model(images, two_targets(), None, None)
    classes = drawn[0]
    assert len(classes) == (4 if limit < 0 else limit)
    if limit == 2:
        assert set(classes) == {"star_n", "dog_n"}
    positive_map = torch.zeros(3, len(classes) + 1)
    for row, name in enumerate(["star_n", "dog_n", "tree_n"]):
        if name in classes:
            positive_map[row, len(classes) - 1 - classes[::-1].index(name)] = 1
    text = by_hand(model, classes, "first", batch=2)
    features = model.encode_images(images)
    _, expected, _ = model.rpn(images, features.levels, two_targets(), text, positive_map, None)
    assert list(losses) == list(expected)
    for name, loss in losses.items():
        torch.testing.assert_close(loss, expected[name], rtol=1e-4, atol=1e-6)
    sum(losses.values()).backward()
    assert model.language_backbone.body.model.embeddings.word_embeddings.weight.grad.any()


def test_training_refuses_captions_and_skips_absent_targets(build):
    model = build().train()
    images = random_images(SIZE, SIZE)
    with pytest.raises(ValueError, match="pass None"):
        model(images, two_targets(), ["cup", "dog"], None)
    with pytest.raises(ValueError, match="one target per image, got 1 for 2 images"):
        model(images, [two_targets()[0], None])


def test_prompt_is_added_to_the_classes(build):
    model = build("MODEL.DYHEAD.FUSE_CONFIG.ADD_LINEAR_LAYER", True)
    with torch.no_grad():
        text = by_hand(model, list(ENTRIES), "first")
        summed, _ = model.rpn.prepare_text(text)
        torch.testing.assert_close(summed.hidden - text.hidden, model.rpn.tunable_linear.weight[None, :5])
        assert summed.hidden.shape == (1, 5, TEXT_DIM)
