"""CPU kernels, compiled by Numba: the steps of `kernels.gpu` under the same names."""
