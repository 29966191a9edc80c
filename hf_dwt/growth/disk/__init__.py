"""Growth beyond memory: a student is written to its folder parameter by parameter."""
