"""Formats of the target cuda: how a layer's weight lies in GPU memory, and which op reads it. One file each."""
