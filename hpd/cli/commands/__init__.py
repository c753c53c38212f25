"""The commands, one file each, with the parts of large ones beside them."""
