//! Turns one OCI spec into one process and minds it: roles shim and oci.
