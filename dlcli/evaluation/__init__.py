"""A trained model -> metrics, predictions and text."""
