"""Stores elsewhere: object stores and other file systems that fsspec knows. Pushed, pulled, and read in place."""
