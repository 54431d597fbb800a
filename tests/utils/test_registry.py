"""Registry: both ways to register, duplicates and unknown names."""

import pytest

from maskrcnn_benchmark.utils.registry import Registry


def test_register_as_decorator_and_as_call():
    registry = Registry(kind="conv body")

    @registry.register("SWINT")
    def build(cfg):
        return cfg

    def other(cfg):
        return cfg

    assert registry["SWINT"] is build
    assert registry.register("OTHER", other) is other
    assert sorted(registry) == ["OTHER", "SWINT"]


def test_entries_of_a_dictionary():
    assert Registry({"SWINT": len}, OTHER=max) == {"SWINT": len, "OTHER": max}


def test_duplicate_name_is_an_error():
    registry = Registry(kind="conv body")
    registry.register("SWINT", len)
    for error in (ValueError, AssertionError):
        with pytest.raises(error, match="conv body 'SWINT' is already registered"):
            registry.register("SWINT", len)
    assert registry["SWINT"] is len


@pytest.mark.parametrize("error", [KeyError, ValueError])
def test_unknown_name_lists_the_known_ones(error):
    registry = Registry(kind="conv body")
    registry.register("SWINT", len)
    registry.register("SWINT-V2", len)
    with pytest.raises(error) as raised:
        registry["SWIN"]
    assert str(raised.value) == "unknown conv body 'SWIN'; known: SWINT, SWINT-V2. Did you mean 'SWINT'?"


def test_unknown_name_in_an_empty_registry_and_get():
    registry = Registry()
    with pytest.raises(KeyError, match="known: none"):
        registry["x"]
    assert registry.get("x") is None
