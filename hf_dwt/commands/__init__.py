"""Commands of `hf-dwt` that are more than a call of one function."""
