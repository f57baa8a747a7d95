"""The comparison of many runs: its page, its tables at the terminal, and its files for other programs."""
