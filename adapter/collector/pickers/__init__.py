"""What endpoint pickers know beside the requests of each model: those in flight, and the saturation."""
