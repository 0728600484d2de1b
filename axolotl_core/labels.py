"""Labels of token ids, as PyTorch's cross-entropy takes them."""

IGNORE_INDEX = -100
"""Label of a token that no loss is taken on: `ignore_index` of torch.nn.functional.cross_entropy."""
