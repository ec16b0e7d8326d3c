"""The commands that look at a finished request of a running server: ``explain`` and ``replay``."""
