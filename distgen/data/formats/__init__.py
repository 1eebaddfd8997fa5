"""What files hold: tars, arrays, and encoded pictures and clips."""
