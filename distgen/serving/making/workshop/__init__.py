"""Where pictures are drawn and written: in a process of its own."""
