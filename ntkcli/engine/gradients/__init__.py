"""Per-row gradients of LoRA factors, and their projections."""
