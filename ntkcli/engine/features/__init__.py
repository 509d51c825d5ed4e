"""Features and exact scores of encoded rows, from gradients or embeddings."""
