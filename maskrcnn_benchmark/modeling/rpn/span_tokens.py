"""The tokens of the phrases that describe a box."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from maskrcnn_benchmark.structures.bounding_box import BoxList
from maskrcnn_benchmark.text.spans import token_range


class SpanTokens:
    """Maps the character spans of boxes (field `tokens_positive`, or `tokens`) to token positions.

    Args:
        tokenizer: a fast Hugging Face tokenizer, the one that encodes the captions for the model.
        max_tokens: captions are cut to that many tokens; None leaves them whole.
    """

    def __init__(self, tokenizer, max_tokens: int | None = None):
        self.tokenizer, self.max_tokens = tokenizer, max_tokens

    def __call__(self, captions: Sequence[str], targets: Sequence[BoxList], num_tokens: int) -> Tensor:
        """Whether a text position belongs to a box.

        Args:
            captions: one for every image.
            targets: the boxes of every image.
            num_tokens: T; tokens beyond are left out, as are spans without a token.

        Returns: (R, T) bool on the CPU, R the number of boxes of the batch.
        Raises: ValueError if captions are missing or an image lacks the field.
        """
        if captions is None or len(captions) != len(targets):
            raise ValueError(f"{len(targets)} images need as many captions, got {captions!r}")
        encoding = self.tokenizer(
            list(captions), truncation=self.max_tokens is not None, max_length=self.max_tokens, padding=False
        )
        is_token = torch.zeros(sum(len(target) for target in targets), num_tokens, dtype=torch.bool)
        row = 0
        for image, target in enumerate(targets):
            for spans in _spans(target, image):
                for begin, end in spans:
                    tokens = token_range(encoding, begin, end, image)
                    if tokens is not None:
                        is_token[row, tokens[0] : tokens[1] + 1] = True
                row += 1
        return is_token


def _spans(target: BoxList, image: int) -> Sequence[Sequence[tuple[int, int]]]:
    for field in ("tokens_positive", "tokens"):
        if target.has_field(field):
            spans = target.get_field(field)
            if len(spans) != len(target):
                raise ValueError(f"image {image} has {len(target)} boxes, but spans for {len(spans)}")
            return spans
    if len(target) == 0:
        return []
    raise ValueError(f"the targets of image {image} need the field 'tokens_positive' for the contrastive loss")
