"""Where pictures are drawn and written: in this process, or in one of its own."""
