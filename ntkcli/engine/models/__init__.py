"""Loading a model, its head and its adapters."""
