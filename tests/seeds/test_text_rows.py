"""Prompts and token positions as the notes print them (rows 10, 33, 38, 41, 67, 87)."""

import json

import golden_tools
import pytest

from maskrcnn_benchmark.text.caption import prompt_from_caption
from maskrcnn_benchmark.text.class_names import clean_name
from maskrcnn_benchmark.text.positive_map import create_positive_map
from maskrcnn_benchmark.text.prompt import build_prompts
from maskrcnn_benchmark.text.tokenizer import build_tokenizer

# The first forty names of LVIS v0.5 as its files spell them, and the prompt that the original prints for them.
LVIS_NAMES = (
    "aerosol_can air_conditioner airplane alarm_clock alcohol alligator almond ambulance amplifier anklet antenna "
    "apple applesauce apricot apron aquarium arctic_(type_of_shoe) armband armchair armoire armor artichoke trash_can "
    "ashtray asparagus atomizer avocado award awning ax baboon baby_buggy basketball_backboard backpack handbag "
    "suitcase bagel bagpipe baguet bait"
).split()
LVIS_PROMPT = (
    "aerosol can. air conditioner. airplane. alarm clock. alcohol. alligator. almond. ambulance. amplifier. anklet. "
    "antenna. apple. applesauce. apricot. apron. aquarium. arctic . armband. armchair. armoire. armor. artichoke. "
    "trash can. ashtray. asparagus. atomizer. avocado. award. awning. ax. baboon. baby buggy. basketball backboard. "
    "backpack. handbag. suitcase. bagel. bagpipe. baguet. bait"
)

QUESTIONS = (
    "Are the flags to the right of the person that is pulled by the horse? Is there a lamp to the right of the animal "
    "on the left? price tag in antique shop for a clock. man in shiny metallic top hat."
)


@pytest.fixture(scope="module")
def tokenizer(bert_vocabulary):
    return build_tokenizer(bert_vocabulary)


def test_coco_prompt(tokenizer):
    """Rows 10 and 67: one caption of 699 characters, without a final full stop; names of several tokens."""
    categories = json.loads(golden_tools.golden_path("text/tokenization.json").read_text())["coco80"]["categories"]
    (prompt,) = build_prompts(list(categories.values()), tokenizer)
    assert len(categories) == 80 and len(prompt.caption) == 699
    assert prompt.caption.startswith(
        "person. bicycle. car. motorcycle. airplane. bus. train. truck. boat. traffic light."
    )
    assert prompt.caption.endswith("vase. scissors. teddy bear. hair drier. toothbrush")
    tokens = prompt.label_to_tokens
    assert sorted(tokens) == list(range(1, 81))
    known = {1: [1], 2: [3], 3: [5], 9: [17], 10: [19, 20], 11: [22, 23, 24], 12: [26, 27], 24: [52, 53, 54], 25: [56]}
    assert {label: tokens[label] for label in known} == known
    assert tokens[79] == [187, 188, 189] and tokens[80] == [191, 192]


def test_first_lvis_prompt(tokenizer):
    """Row 33: underscores become blanks; what stands in parentheses goes and leaves its blank."""
    (prompt,) = build_prompts([clean_name(name) for name in LVIS_NAMES], tokenizer, chunk_size=40, verbatim=True)
    assert prompt.caption == LVIS_PROMPT
    assert clean_name("arctic_(type_of_shoe)") == "arctic "


def test_positive_map_of_eight_boxes(tokenizer):
    """Rows 38 and 41: the boxes of a mixed-grounding caption name single words, and one of them two."""
    phrases = ["person", "flags", "horse", "animal", "lamp", "price tag", "clock", "man"]
    spans = [[(QUESTIONS.index(phrase), QUESTIONS.index(phrase) + len(phrase))] for phrase in phrases]
    positive_map = create_positive_map(tokenizer(QUESTIONS), spans)
    assert positive_map.shape == (8, 256)
    rows, columns = positive_map.nonzero(as_tuple=True)
    assert rows.tolist() == [0, 1, 2, 3, 4, 5, 5, 6, 7]
    assert columns.tolist() == [9, 3, 15, 26, 20, 31, 32, 38, 40]


def test_caption_of_the_demo(tokenizer):
    """Row 87: tokens, phrases, spans and map of "bobble heads on top of the shelf"."""
    caption = "bobble heads on top of the shelf"
    assert tokenizer(caption)["input_ids"] == [101, 3960, 3468, 4641, 2006, 2327, 1997, 1996, 11142, 102]
    prompt = prompt_from_caption(caption, tokenizer)
    assert prompt.phrases == {1: "bobble heads", 2: "top", 3: "the shelf"}
    assert prompt.spans == {1: [(0, 12)], 2: [(16, 19)], 3: [(23, 32)]}
    assert prompt.label_to_tokens == {1: [1, 2, 3], 2: [5], 3: [7, 8]}
