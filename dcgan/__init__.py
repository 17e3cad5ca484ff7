"""Train a DCGAN on MNIST: networks, recipes, data, training and checkpoints.

`spec`, `errors`, `files`, `images`, `commands` and `shipped` are torch-free and shared with `export` and `infer`.
"""

__version__ = "0.1.0"
