"""What a client of the server may import: nothing else comes with it, no model and no engine."""
