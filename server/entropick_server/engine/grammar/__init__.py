"""Grammars of structured output: what a reply may say, within bounds, and where it stands."""
