"""What attainment costs: curves of policies that were swept, and the frontier of the rivals."""
