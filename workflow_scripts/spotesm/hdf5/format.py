"""What the merged file calls itself."""

FORMAT = "spotesm"
FORMAT_VERSION = 1  # another one only where an older reader would misread the file
