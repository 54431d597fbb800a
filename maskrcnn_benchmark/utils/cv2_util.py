"""OpenCV, where its versions differ. The package does without it; this is for code that has it installed."""

from typing import Any


def findContours(*args: Any, **kwargs: Any) -> tuple[Any, Any]:
    """``cv2.findContours`` returning (contours, hierarchy) under every version.

    Raises: ImportError if OpenCV is not installed.
    """
    import cv2

    return cv2.findContours(*args, **kwargs)[-2:]  # OpenCV 3 puts the picture first
