"""The command `compare` and where its numbers come from."""
