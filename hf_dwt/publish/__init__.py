"""Publishing: the run record, its picture, the model card and the push to the Hub. Useful with any Trainer."""
