"""Real video in and out: probing and decoding files of strangers, cutting them into clips, writing our own."""
