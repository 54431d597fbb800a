import pytest

from maskrcnn_benchmark.text.class_names import check_unicode, clean_name, has_content, listed, shown, split_class_text


@pytest.mark.parity
def test_clean_name_as_recorded(tokenization):
    assert {name: clean_name(name) for name in tokenization["clean_name"]} == tokenization["clean_name"]


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("flip-flop_(sandal)", "flip-flop "),
        ("__background__", " background "),
        ("  ", " "),
        ("a___b", "a  b"),
        ("x_(a)_y_(b)_z", "x z"),
        ("arctic_(type_of_shoe)", "arctic "),
    ],
)
def test_clean_name_keeps_blanks_at_the_ends(name, expected):
    assert clean_name(name) == expected


@pytest.mark.parametrize(
    ("text", "names"),
    [
        ("person. traffic light", ["person", "traffic light"]),
        ("sofa . remote . plane .", ["sofa", "remote", "plane"]),
        ("cat.dog", ["cat", "dog"]),
        ("cat; dog\nbird", ["cat", "dog", "bird"]),
        ("cat, dog", ["cat", "dog"]),
        ("a cat, black. dog", ["a cat, black", "dog"]),
        ("3.5 inch disk. cat", ["3.5 inch disk", "cat"]),
        (" fire   hydrant ", ["fire hydrant"]),
        ("猫。狗", ["猫", "狗"]),
        ("🐱. 🐶", ["🐱", "🐶"]),
    ],
)
def test_split_class_text(text, names):
    assert split_class_text(text) == names


@pytest.mark.parametrize("text", ["", "   ", ". . .", ";,.", "\n\n", "-. /", "!!!", "@#$%^&*()", "\u200b"])
def test_a_text_of_separators_names_no_class(text):
    with pytest.raises(ValueError, match="names no class") as error:
        split_class_text(text)
    assert repr(text) in str(error.value)


@pytest.mark.parametrize("text", ["a", "7", "!7!", "C++", "猫", "кот", "قطة", "🐱", "👍🏽", "🇪🇺", "ก", "हि"])
def test_words_of_any_script_and_emoji_are_content(text):
    assert has_content(text)


def test_halves_of_characters_are_refused():
    check_unicode("naïve 🐱")
    with pytest.raises(ValueError, match=r"'caf\\udce9' is not a valid Unicode text"):
        check_unicode("caf\udce9")


def test_messages_stay_short():
    assert len(shown("x" * 1000)) < 80
    assert listed(["a", "b"]) == "'a', 'b'"
    assert listed([str(i) for i in range(9)]) == "'0', '1', '2', '3', '4' and 4 more"
