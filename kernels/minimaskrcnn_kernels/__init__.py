"""Triton kernels of minimaskrcnn's operations.  Imports torch and triton only; never minimaskrcnn."""
