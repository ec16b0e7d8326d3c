"""``entropick inspect``: figures of a model's weights, heads and layers, as a report and as JSON."""
