"""The main job in small, on text that every machine has; `demo` is all of it."""
