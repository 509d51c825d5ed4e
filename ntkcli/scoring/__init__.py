"""Scores of pool rows against a domain: one file a method family. Numpy only; memory is bounded by a block."""
