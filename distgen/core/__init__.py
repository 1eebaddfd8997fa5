"""What every other room stands on: errors, configs, storage, seeds, ranks. No torch, no Ray."""
