"""Grammars of structured output: their bounds, their compiling, and the place of a reply in them."""
