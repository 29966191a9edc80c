"""Width: how each parameter of a wider student is made from the teacher's."""
