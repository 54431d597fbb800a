"""What messages repeat is short."""

from maskrcnn_benchmark.utils.messages import first_of, shortened


def test_first_of():
    assert first_of(["a", "b", "c"]) == "a; b; c"
    assert first_of(["a", "b", "c", "d"]) == "a; b; c; 1 more"
    assert first_of(["a", "b", "c"], 1) == "a; 2 more"


def test_shortened():
    assert shortened("abc", 3) == "abc"
    assert shortened("abcd", 3) == "abc..."
