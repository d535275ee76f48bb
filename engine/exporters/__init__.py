"""A cache -> files that other programs read: .ply and .spz sequences, one OpenUSD file, a glTF still (`run.export_cache`)."""
