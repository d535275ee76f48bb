"""Training an avatar from a data set folder (paper sec 2.4): mouth, face, then both together. `run.train_avatar` does it all."""
