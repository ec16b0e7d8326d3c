"""The wire: what a client may send, what it gets back, and what a refusal looks like."""
