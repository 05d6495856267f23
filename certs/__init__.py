"""Certificate authorities, serving and client certificates."""
