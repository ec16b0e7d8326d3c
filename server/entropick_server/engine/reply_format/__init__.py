"""The form of a model's replies: where reasoning, text and calls of tools stand, and how a call is written."""
