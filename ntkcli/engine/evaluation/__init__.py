"""Likelihoods and generated texts of a model, for evaluation."""
