"""The wire: the fields that a client may send, the fields of an answer, and the shape of a refusal."""
