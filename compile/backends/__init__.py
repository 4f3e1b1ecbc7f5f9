"""Backends: who builds a payload. One file each; the file name is the key on the command line."""
