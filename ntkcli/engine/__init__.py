"""The only layer with module-level torch: models, per-example gradients, embeddings, training, likelihoods."""
