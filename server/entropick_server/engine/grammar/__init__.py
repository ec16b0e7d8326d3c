"""Grammars of structured output: what a reply may say, compiled within bounds, and where a reply stands in it."""
