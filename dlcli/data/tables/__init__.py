"""Tables as data sets."""
