"""The log: a line for every HTTP request at its end, and the form of all lines, text or JSON."""
