"""Phase space: every head over a text by token cost and genuineness, beside the published labels."""
