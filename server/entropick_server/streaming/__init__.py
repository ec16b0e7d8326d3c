"""From an engine's outputs to answers: whole, or piece by piece as server-sent events."""
