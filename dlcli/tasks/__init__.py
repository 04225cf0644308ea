"""What is to be predicted, one file per task: its loss, its metrics, and what an answer is."""
