//! Commands, flags, tables, exit codes.
