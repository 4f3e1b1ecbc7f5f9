"""The target cuda: which format each layer gets on a GPU, measured, and the network that is built from them."""
