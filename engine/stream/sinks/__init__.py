"""Where events go: database, files, console."""
