"""The attention heads: the geometry of their query-key form, their attention over text, and the relation."""
