"""Stage 1 (method sec 2.1, 2.2): what a voice says to a face, learned from many voices: lip expert, style encoder, FuseNet, emotion."""
