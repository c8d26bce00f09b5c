"""The blind study: people compare whole videos of two models, question by question, on the labelling page."""
