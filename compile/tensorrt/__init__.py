"""What the tensorrt backend is made of: the fp16 model, the builder, and the reading of what the builder did."""
