"""What the watches of a cluster show, joined."""
