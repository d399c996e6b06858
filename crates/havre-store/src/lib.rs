//! Bytes by digest, layer snapshots, the state database.
