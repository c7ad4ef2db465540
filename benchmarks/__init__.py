"""The benchmark suite: `fused-sampler bench`, or `make bench` in a checkout.

- `cases.py`: what is sampled: parameters, vocabularies, batches, logits. `plan.py` chooses of it.
- `ours.py` and `peers/`: what is compared, a few lines each.
- `run.py` goes through the cells, `measure.py` measures one: first `kept_sets.py` compares what
  each sampler keeps with the contract's, then `timing.py` times those that passed, in turn, on the
  clock of the CPU or of the GPU, and `footprint.py` counts memory and launches.
- `results.py` writes CSV and JSON, `report.py` Markdown, `plots.py` and `drawing.py` pictures.
- `traffic.py` counts what the GPU kernels read and write (`counter.py`, in Triton's interpreter by
  `interpreter.py`) into `planes.json`; `gpu_time.py` and `estimate.py` make GPU times of it.
- `cycles.py` counts the instructions of their machine code, which `emulator/` runs without a GPU,
  into `cycles.json`.
- `end_to_end.py` times `generate` and, with `continuous.py`, continuous batching; `runs.py` is what
  both share. `check.py` holds the ratios against `floor.json`; `speed/` has the main cases for
  pytest-benchmark. `command.py` is what their command lines share.
"""
