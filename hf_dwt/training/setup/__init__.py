"""Before the first step: what a run is made of, loaded, and all that is wrong with it at once."""
