"""Selections from a score: filters, selectors, export, and why a row was chosen or not."""
