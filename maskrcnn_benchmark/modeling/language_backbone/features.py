"""What the text encoder hands to the detector."""

import dataclasses
from collections.abc import Iterator, Mapping

from torch import Tensor


@dataclasses.dataclass(frozen=True)
class TextFeatures:
    """Encoded captions; fields can also be read like entries of a dict.

    Attributes:
        aggregate: (B, D) mean of the word embeddings, None where the encoder has none.
        embedded: (B, T, D) embeddings, zero on padding.
        masks: (B, T) int64, 1 = word.
        hidden: (B, T, D) last layer, not masked; the fusion layers read and update it.
        mlm_labels: (B, T) int64 targets of masked language modelling, -100 = not scored, or None.
    """

    aggregate: Tensor | None
    embedded: Tensor | None
    masks: Tensor
    hidden: Tensor
    mlm_labels: Tensor | None = None

    @classmethod
    def of(cls, text: "TextFeatures | Mapping[str, Tensor | None]") -> "TextFeatures":
        """Features as they are, or those that a dict of the fields holds, as other code makes it of the original's.

        Raises: KeyError for a dict without the last layer or the masks.
        """
        if isinstance(text, cls):
            return text
        return cls(text.get("aggregate"), text.get("embedded"), text["masks"], text["hidden"], text.get("mlm_labels"))

    def __getitem__(self, key: str) -> Tensor | None:
        if key not in self.keys():
            raise KeyError(key)
        return getattr(self, key)

    def keys(self) -> tuple[str, ...]:
        """The names of the fields."""
        return tuple(field.name for field in dataclasses.fields(self))

    def __iter__(self) -> Iterator[str]:
        return iter(self.keys())

    def items(self) -> Iterator[tuple[str, Tensor | None]]:
        """Names and values of the fields."""
        return ((name, self[name]) for name in self.keys())

    def replace(self, **changes) -> "TextFeatures":
        """A copy with some fields changed."""
        return dataclasses.replace(self, **changes)

    def rows(self, index: "Tensor | slice") -> "TextFeatures":
        """The chosen captions, as a slice or a tensor of their numbers."""
        values = {name: getattr(self, name) for name in self.keys()}
        return TextFeatures(**{name: None if value is None else value[index] for name, value in values.items()})

    def __len__(self) -> int:
        return self.hidden.shape[0]
