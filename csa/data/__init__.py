"""Sources, long-tailed subsets, samplers, batched augmentation and loaders."""
