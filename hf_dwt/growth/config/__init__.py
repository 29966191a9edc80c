"""Configs: what sizes mean, under which names, and the config of the larger student."""
