//! Trees to archives and back.
