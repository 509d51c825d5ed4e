"""Readers of file formats: each yields records, one per row."""
