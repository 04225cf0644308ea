"""A trained model -> numbers, answers and text."""
