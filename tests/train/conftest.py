"""Small tensors: more than one thread would only wait for the others."""

import torch

torch.set_num_threads(1)
