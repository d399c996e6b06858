//! OCI documents, digests, references, platforms, layer tar conventions: no disk, no network.

pub mod runtime;
