"""Formats: how the bytes of a weight lie. One file each; the file name is the key that a layer table carries."""
