"""What happens to targets between two cycles: they are asked for, followed from `.status`, and woken."""
