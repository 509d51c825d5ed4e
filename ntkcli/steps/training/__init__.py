"""Fine-tuning an adapter on selected rows."""
