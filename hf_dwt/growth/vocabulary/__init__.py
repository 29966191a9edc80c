"""Another vocabulary than the teacher's: rows of new tokens, and a tokenizer of another family."""
