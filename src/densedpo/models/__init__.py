"""Video diffusion models behind one small interface; one file a family."""
