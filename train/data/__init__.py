"""Data sets. One file each, with a function ``load(folder)``; the file name is the recipe's key for it."""
