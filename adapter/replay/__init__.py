"""Traffic replayed in virtual time against policies, side by side."""
