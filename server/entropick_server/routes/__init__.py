"""The HTTP routes: thin; each reads a body, asks the modules below, and answers."""
