"""Selections from scores: one file a selector. Numpy only."""
