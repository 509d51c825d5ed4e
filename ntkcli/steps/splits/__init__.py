"""Splits of a data set into train and test files, and what two sets share."""
