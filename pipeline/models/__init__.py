"""Networks, Gaussians and how the experts of the modalities become one posterior."""
