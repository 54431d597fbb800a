"""Detection data as grounding data: boxes with class labels become boxes with words of a caption."""
