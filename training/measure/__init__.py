"""What prints figures: the frozen judges, and whatever compares models."""
