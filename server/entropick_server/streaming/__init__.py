"""From an engine's outputs to answers: whole, or in chunks as server-sent events."""
