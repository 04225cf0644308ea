"""What is predicted, one file per task: its loss, its metrics, and the meaning of a model's output."""
