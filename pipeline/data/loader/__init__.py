"""From a dataset directory to batches of tensors, in an order that is known in advance."""

from pipeline.data.loader.dataset import ShardedDataset, sequential_batches, training_batches

__all__ = ["ShardedDataset", "sequential_batches", "training_batches"]
