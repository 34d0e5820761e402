"""Data sets in the formats of other tools: recognised where one is refused, read where one is converted."""
