"""What is known of a variant's step times beside its profile: priors, what was stored, drift."""
