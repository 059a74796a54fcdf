"""What runs in a model pod: `download` fetches weights, `serve` answers for one model."""
