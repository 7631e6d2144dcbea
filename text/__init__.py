"""From text to tensors: vocabularies, lists of token ids, padded batches."""
