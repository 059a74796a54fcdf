"""Models that make vectors of texts, or scores of pairs of texts: pooling, batches, and the engine around them."""
