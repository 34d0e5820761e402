"""The commands, one file each: they parse flags, call what Python programs call, and print."""
