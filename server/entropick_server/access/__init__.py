"""Access to the server: the keys with their names, their file, and the limits of each key."""

from .keys import Keys, keys_of
from .limits import RequestRates, TokensInFlight
from .refresh import refreshed

__all__ = ["Keys", "RequestRates", "TokensInFlight", "keys_of", "refreshed"]
