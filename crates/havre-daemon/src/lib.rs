//! Configuration, opening the services in order, signals, shutdown.
