"""The cache: the targets of each example, computed once and read in training."""
