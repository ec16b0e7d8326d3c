"""Control text: what a tokenizer would read as a control token, and how it stays text in a message."""
