"""Looking into a store: what is in it, whether it is intact, and removing what is not needed."""
