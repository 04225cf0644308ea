"""A folder of images as a data set."""
