"""Language models for the command line, the explorer and the benchmarks."""
