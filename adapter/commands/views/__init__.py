"""Commands that look at a running adapter, which the Lease names and a forwarded port reaches."""
