"""Reading, checking and splitting data. Nothing in here imports torch."""
