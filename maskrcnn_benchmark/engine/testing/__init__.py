"""Evaluation runs: tasks, stored predictions, figures and pictures of results."""
