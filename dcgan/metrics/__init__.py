"""What generated digits are judged by: a file a metric. NumPy only, but for `classification`, which trains a network.

Each metric is a function of arrays: features (the frozen evaluator's, float64, shape (N, D)), labels (integers, shape
(N,)) or images (uint8, shape (N, H, W)). What they mean together, and their figures, are in docs/quality.md.
"""
