"""What every part of the toolkit shares: spec, latents, pixels, tolerances, golden and test vectors, errors, files."""
