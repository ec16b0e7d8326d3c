"""Control text: texts that a tokenizer reads as control tokens, and how they stay text in a message."""
