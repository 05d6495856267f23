"""Pods as a client reaches them through the API server."""
