"""Parts of a simulated fleet: its variants, the clients in front of it, and what became of their requests."""
