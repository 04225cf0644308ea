"""A trained run -> a file that another program opens, compared with what was trained before it is kept."""
