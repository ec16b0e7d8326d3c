"""Helpers for clients of the server: nothing else is imported with them, no model and no engine."""
