"""Where the kernels' tests run: on a GPU where there is one, otherwise on the CPU under Triton's interpreter."""

import torch

DEVICE = torch.device("cuda" if torch.cuda.is_available() else "cpu")
