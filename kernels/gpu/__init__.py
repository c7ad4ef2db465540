"""Triton kernels: the steps of `fused_sampler.kernels` for GPUs."""
