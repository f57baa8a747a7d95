"""Mechanisms, one a file: what each promises, and how it trains."""
