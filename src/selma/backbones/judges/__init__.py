"""Networks that answer questions about images."""
