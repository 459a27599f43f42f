"""Networks that answer questions about pictures."""
