"""Runs in the files of benchmark tools, as rows."""
