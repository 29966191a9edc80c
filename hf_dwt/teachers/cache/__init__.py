"""The cache: what a teacher says of each example, computed once and read while training."""
