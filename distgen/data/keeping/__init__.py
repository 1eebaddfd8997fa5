"""What is kept for later epochs: decoded pictures in memory, bytes of remote sets on disk."""
