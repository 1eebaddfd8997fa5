"""Who may use an endpoint: keys, what they open, and how much they give."""
