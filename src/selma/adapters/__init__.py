"""Adapters: small trained changes of a frozen model, their files, and how they are applied."""
