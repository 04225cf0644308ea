"""From settings to data, model and task; from a run back to its trained model."""
