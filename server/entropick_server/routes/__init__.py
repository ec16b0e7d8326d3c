"""The HTTP routes, all thin: each reads a body, asks the modules below, and answers."""
