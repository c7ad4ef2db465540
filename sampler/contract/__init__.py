"""The law that every backend keeps, in plain PyTorch: masses, random bits, the textbook."""
