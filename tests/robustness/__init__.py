"""What happens around a run that nobody planned."""
