"""What a distillation step costs, beside the same step without a teacher and beside other tools: `make benchmark`."""
