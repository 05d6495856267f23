"""Rows of the ConfigMaps, and the last good ones."""
