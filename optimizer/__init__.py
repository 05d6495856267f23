"""Fleet-wide choice of accelerator, replicas and batch size: pure, on candidates as numbers."""
