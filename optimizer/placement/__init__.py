"""Joint choice of the replicas of variants that share demands, within devices and budgets: pure numbers."""
