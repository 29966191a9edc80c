"""Forward passes: from a batch to the logits at its labelled positions."""
