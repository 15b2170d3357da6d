"""What containers use, sampled and summed up."""
