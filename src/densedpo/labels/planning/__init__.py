"""Where people are worth their time, and how much of it is needed."""
