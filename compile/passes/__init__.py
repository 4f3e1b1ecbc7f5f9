"""Rewrites of the captured graph, one file each."""
