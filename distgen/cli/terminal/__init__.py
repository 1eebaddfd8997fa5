"""Pictures in a terminal: what it understands, and how it is told."""
