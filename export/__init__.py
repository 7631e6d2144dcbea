"""What only other people's tools read: config.json's further keys, tokenizer.json, the chat
template, model cards. Functions that return text or a dict; whoever calls them writes the file."""
