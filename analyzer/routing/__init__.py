"""What a router in front of several replicas changes for each of them."""
