"""The formats of `spotesm export`: a module each, which ends with its row of the table."""
