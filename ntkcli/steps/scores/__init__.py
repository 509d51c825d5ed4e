"""Scores of pool rows: from features, from texts, or from a model; and how far scores agree."""
