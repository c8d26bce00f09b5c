"""The labelling page: its server and its static files."""
