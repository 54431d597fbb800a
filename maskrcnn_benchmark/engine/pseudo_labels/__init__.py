"""Pseudo-labels: a teacher's boxes for pictures with captions."""
