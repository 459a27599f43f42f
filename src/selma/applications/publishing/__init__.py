"""Publish a finished run's merged adapter: its model card, and uploading both to the Hub."""
