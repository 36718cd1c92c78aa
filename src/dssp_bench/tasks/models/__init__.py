"""Networks, one file each; `shapes` refuses images that a network cannot take."""
