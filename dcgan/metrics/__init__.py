"""What generated images are judged by: a file a metric.

NumPy only, but for what trains a network, and needs torch: `classification`, `two_sample` and `make_evaluator`.

Each metric is a function of arrays: features (an evaluator's, float64, shape (N, D)), labels (integers, shape (N,)) or
images (uint8, shape (N, H, W), grey, or (N, H, W, 3), in colour). What they mean together, and their figures, are in
docs/quality.md.
"""
