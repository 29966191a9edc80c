"""Coverage: which architectures grow exactly, measured over every type of five of transformers' maps."""
