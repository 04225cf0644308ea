"""Files as people have them -> raw values."""
