//! Container and exec lifecycle, events, restart policies, recovery.
