"""HTTP connections: how many there may be, how long each may take, and how much is held for each.

uvicorn's HTTP/1.1 protocol with deadlines, accepted by a listener that knows how many connections there are.
"""
