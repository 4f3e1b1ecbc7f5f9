"""Metrics: what is measured of an artifact. One file each; the file name is the key that a measurement carries."""
