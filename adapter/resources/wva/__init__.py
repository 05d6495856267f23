"""What the workload-variant-autoscaler left in a cluster: its ConfigMaps, and HPAs that it managed."""
