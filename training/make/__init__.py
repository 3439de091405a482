"""What writes files: data sets, models and pictures."""
