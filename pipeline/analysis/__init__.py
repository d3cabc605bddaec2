"""What a model has learned, in pictures and pages."""
