"""The benchmark suite: `fused-sampler bench`, or `make bench` in a checkout.

- `cases.py`: what is sampled: parameters, vocabularies, batches, logits.
- `peers/`: what it is compared with, a few lines each.
- `timing.py`: the clocks of CPU and GPU, calls timed in turn, medians.
"""
