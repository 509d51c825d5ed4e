"""Evaluating a model with its adapters on tasks."""
