"""Validation by retraining: do the rows that a score likes help more?"""
