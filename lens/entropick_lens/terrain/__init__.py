"""The terrain of a model: its embedding and its weights, without a forward."""
