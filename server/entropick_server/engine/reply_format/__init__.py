"""The form of a model's replies: where reasoning, text and calls of tools stand; how a call is written."""
