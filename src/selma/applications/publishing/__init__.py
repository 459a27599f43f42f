"""A finished run's merged adapter for others: its model card, and its way to the Hub."""
