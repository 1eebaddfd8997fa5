"""What a run would do on more hosts than there are: a model of a step, fed by measurements."""
