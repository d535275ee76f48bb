"""The worker: `protocol` and `client` are plain (Blender uses them); `server` is the process with the networks."""
