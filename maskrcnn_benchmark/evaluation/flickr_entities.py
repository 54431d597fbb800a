"""Flickr30k Entities (arXiv:1505.04870): sentences whose phrases are linked to boxes."""

import os
import re
from collections import defaultdict
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NamedTuple
from xml.etree import ElementTree

PHRASE = re.compile(r"\[/EN#(?P<entity>\d+)/(?P<types>[^\s\]]+)\s*(?P<words>[^\]]*)\]")


class Phrase(NamedTuple):
    """A phrase of a sentence.

    Attributes:
        text: its words. first_word: number of words of the sentence before it.
        entity: the thing that it names, as boxes are numbered; types: such as people, animals, other.
    """

    text: str
    first_word: int
    entity: str
    types: tuple[str, ...]


class Sentence(NamedTuple):
    """The words of a sentence without the marks, and its phrases in order."""

    text: str
    phrases: tuple[Phrase, ...]


class ImageBoxes(NamedTuple):
    """Boxes of an image: entity -> xyxy pixels; entities that are the whole scene, or have no box."""

    boxes: Mapping[str, list[list[int]]]
    without_box: frozenset[str]
    scenes: frozenset[str]


def parse_sentence(line: str) -> Sentence:
    """Reads a line such as `[/EN#5/people A man] runs`."""
    words: list[str] = []
    phrases = []
    end = 0
    for found in PHRASE.finditer(line):
        words += line[end : found.start()].split()
        end = found.end()
        own = found["words"].split()
        phrases.append(Phrase(" ".join(own), len(words), found["entity"], tuple(found["types"].split("/"))))
        words += own
    words += line[end:].split()
    return Sentence(" ".join(words), tuple(phrases))


def read_sentences(path: str | os.PathLike[str]) -> list[Sentence]:
    """The sentences of an image; blank lines do not count."""
    return [parse_sentence(line) for line in Path(path).read_text(encoding="utf-8").splitlines() if line.strip()]


def read_boxes(path: str | os.PathLike[str]) -> ImageBoxes:
    """The boxes of an image. Raises: ValueError for a file that is not XML or lacks a corner of a box."""
    try:
        root = ElementTree.parse(path).getroot()
    except ElementTree.ParseError as error:
        raise ValueError(f"annotation file {os.fspath(path)} is not valid XML: {error}") from error
    boxes: dict[str, list[list[int]]] = defaultdict(list)
    flagged: dict[str, set[str]] = {"nobndbox": set(), "scene": set()}
    for item in root.findall("object"):
        entities = [(name.text or "").strip() for name in item.findall("name")]
        corners = item.find("bndbox")
        if corners is None:
            for flag, members in flagged.items():
                if item.findtext(flag, "0").strip() == "1":
                    members.update(entities)
            continue
        try:
            box = [int(corners.findtext(name, "")) for name in ("xmin", "ymin", "xmax", "ymax")]
        except ValueError:
            raise ValueError(
                f"annotation file {os.fspath(path)}: a box of {', '.join(entities)} lacks a corner"
            ) from None
        for entity in entities:
            boxes[entity].append(box)
    return ImageBoxes(dict(boxes), frozenset(flagged["nobndbox"]), frozenset(flagged["scene"]))


def subset_of_image(folder: str | os.PathLike[str], image_id: int | str) -> str | None:
    """The part of Flickr30k Entities in `folder` whose list names the image; None if none of those there does."""
    for subset in ("test", "val", "train"):
        listing = Path(folder, f"{subset}.txt")
        if listing.is_file() and str(image_id) in listing.read_text(encoding="utf-8").split():
            return subset
    return None


class GroundedPhrase(NamedTuple):
    """What a phrase should be found as: boxes (xyxy pixels, at least one), and its types."""

    text: str
    boxes: Sequence[Sequence[float]]
    types: tuple[str, ...]


class Flickr30kEntities:
    """The sentences of a part of the dataset that have a phrase with a box.

    Args:
        folder: holds `{subset}.txt`, Sentences/*.txt and Annotations/*.xml.
        subset: "train", "val" or "test".
    Attributes:
        phrases: `{image}_{number of the sentence}` -> its phrases that have boxes, in order.
    Raises: FileNotFoundError for a missing file.
    """

    def __init__(self, folder: str | os.PathLike[str], subset: str):
        self.folder = Path(folder)
        listing = self.folder / f"{subset}.txt"
        if not listing.is_file():
            raise FileNotFoundError(
                f"{listing} is missing: recall on Flickr30k needs Flickr30k Entities there ({subset}.txt, "
                "Sentences/*.txt, Annotations/*.xml)"
            )
        self.image_ids = [line.strip() for line in listing.read_text(encoding="utf-8").splitlines() if line.strip()]
        self.phrases: dict[str, tuple[GroundedPhrase, ...]] = {}
        for image_id in self.image_ids:
            boxes = read_boxes(self.folder / "Annotations" / f"{image_id}.xml").boxes
            sentences = read_sentences(self.folder / "Sentences" / f"{image_id}.txt")
            for number, sentence in enumerate(sentences):
                phrases = tuple(
                    GroundedPhrase(phrase.text, boxes[phrase.entity], phrase.types)
                    for phrase in sentence.phrases
                    if phrase.entity in boxes
                )
                if phrases:
                    self.phrases[f"{image_id}_{number}"] = phrases
