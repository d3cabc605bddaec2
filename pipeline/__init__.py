"""Triptych: one latent space for aligned RGB, depth and segmentation."""
