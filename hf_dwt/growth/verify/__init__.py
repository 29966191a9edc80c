"""Verification: whether a student computes what its teacher does, and where it first differs."""
