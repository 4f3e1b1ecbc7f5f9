"""``st3 export-triton``: artifacts as a model repository of the Triton Inference Server."""
