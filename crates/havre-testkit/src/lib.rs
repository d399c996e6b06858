//! Fixtures, images and scratch worlds for tests.
