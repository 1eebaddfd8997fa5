"""Samples in an order that ranks do not change: read, checked, decoded and delivered."""
