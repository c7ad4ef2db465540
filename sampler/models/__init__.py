"""Language models for the command line, the explorer and the benchmarks.

`load.py` loads a folder, a hub id or the embedded model, which `embedded.py` unpacks once;
`prompt.py` encodes what the model is to continue. `vocabulary.py` says which ids it may not draw,
and `generation.py` what its own generation config does to a draw. `errors.py` and `quiet.py` are
what they share.
"""
