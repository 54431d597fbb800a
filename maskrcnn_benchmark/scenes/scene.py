"""What is known about a scene: its things, their boxes and how much of each can be seen."""

from dataclasses import dataclass, field

from maskrcnn_benchmark.scenes.palette import Pair

OCCLUDED_BELOW = 0.9
"""A thing counts as partly occluded when less than this part of its drawn area is visible."""


@dataclass
class SceneObject:
    """One thing. bbox is (x, y, w, h) in pixels: all that is drawn of it inside the image, hidden parts included."""

    kind: str
    color: str
    size_word: str
    texture: str
    rotation: float
    bbox: tuple[int, int, int, int]
    visible_fraction: float = 1.0

    @property
    def pair(self) -> Pair:
        return (self.color, self.kind)

    @property
    def occluded(self) -> bool:
        return self.visible_fraction < OCCLUDED_BELOW

    @property
    def center(self) -> tuple[float, float]:
        x, y, w, h = self.bbox
        return x + w / 2, y + h / 2

    def attributes(self) -> dict[str, str | float | bool]:
        return {
            "color": self.color,
            "kind": self.kind,
            "size": self.size_word,
            "texture": self.texture,
            "rotation": self.rotation,
            "visible_fraction": self.visible_fraction,
            "occluded": self.occluded,
        }


@dataclass
class Caption:
    """A text about a scene: a ``sentence``, a ``list`` of pairs or a list of ``kinds``.

    phrases: character span [begin, end) and the indices of the things it names (none for an absent pair of a list);
    relations: (index of a phrase, relation, index of another phrase).
    """

    text: str
    caption_type: str
    phrases: list[tuple[tuple[int, int], list[int]]]
    relations: list[tuple[int, str, int]] = field(default_factory=list)


@dataclass
class Scene:
    width: int
    height: int
    split: str
    objects: list[SceneObject]
    captions: list[Caption] = field(default_factory=list)

    def pairs(self) -> list[Pair]:
        """The colour-kind pairs present, each once, in order of first appearance."""
        return list(dict.fromkeys(item.pair for item in self.objects))

    def confusable_count(self, index: int) -> int:
        """How many things are of the same kind as object ``index`` but of another colour."""
        one = self.objects[index]
        return sum(other.kind == one.kind and other.color != one.color for other in self.objects)
