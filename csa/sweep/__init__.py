"""A sweep from plan to table: cells, what is done of them, running the rest, saying how it went."""
