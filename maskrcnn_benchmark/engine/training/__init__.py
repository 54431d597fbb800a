"""Training from a configuration: the loop's parts, checks, validation and reports."""
