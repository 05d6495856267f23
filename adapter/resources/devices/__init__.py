"""GPU products by their names and labels, and the nodes that pods may go to."""
