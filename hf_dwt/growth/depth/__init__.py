"""Depth: which layers of a deeper student are made from which, and identity layers."""
