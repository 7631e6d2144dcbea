"""What only other people's tools read: model cards, tokenizer.json, the chat template."""
