"""Stage one: trains a recipe with a sparse training method and writes a checkpoint."""
