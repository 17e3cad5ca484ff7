"""Train a DCGAN on MNIST: networks, recipes, data, training and checkpoints."""
