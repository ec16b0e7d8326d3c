"""The policy of sampling: the signals of a decode step in, decisions and tokens out."""
