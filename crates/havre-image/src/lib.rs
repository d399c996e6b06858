//! Names to manifests: load, import, tag, list, inspect, remove, the embedded image.
