"""From a dataset directory to batches of tensors, in an order that is known in advance."""
