//! The json-file container log: crash-safe writing, rotation, reading, following.
