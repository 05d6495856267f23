"""Parts of a reconcile cycle: errors of single variants, and targets from what was planned."""
