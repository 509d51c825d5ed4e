"""Training an adapter: steps, loss, checkpoints, moments."""
