"""Training: `DistillationTrainer` and its parts. Only this package reads private names of transformers' Trainer."""
