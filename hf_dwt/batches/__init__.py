"""Data: batches from examples, under seeds that belong to an epoch, a batch or an example."""
