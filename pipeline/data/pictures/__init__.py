"""One picture: RGB, depth or labels, read with care and brought to size."""
