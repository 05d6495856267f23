"""Which policies a comparison replays: their names, and the settings that are swept."""
