"""Leader election of a process: a thread of its own for the Lease."""
