//! Routes, versions, streams and hijacking, error kind to status, wire to domain.
