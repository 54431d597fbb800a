"""Historical import paths of the evaluation."""
