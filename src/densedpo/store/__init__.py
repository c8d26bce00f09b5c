"""Durable storage without torch: files, tables and the project folder."""
