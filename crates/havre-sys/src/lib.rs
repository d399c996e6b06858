//! Safe owning handles over the kernel: the only crate with unsafe code.
