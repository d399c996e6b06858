//! A check of what is stored: `POST /system/fsck`, which only Havre has.

#![expect(missing_docs, reason = "the fields are described in docs/fsck.md")]

use crate::wire::wire;

wire! {
    /// The `aux` of a line of the stream.
    pub struct FsckMessage {
        omit finding: Option<FsckFinding>,
        omit summary: Option<FsckSummary>,
    }

    /// Something that is not as it should be.
    pub struct FsckFinding {
        kind: String,
        object: String,
        problem: String,
        repair: String,
        outcome: String,
        damage: bool,
        bytes: u64,
    }

    /// What was looked at.
    pub struct FsckSummary {
        blobs: u64,
        layers: u64,
        images: u64,
        names: u64,
        containers: u64,
        unverifiable: Option<Vec<String>>,
        damaged: u64,
        unrepaired: u64,
        leftovers: u64,
        leftover_bytes: u64,
        freed: u64,
    }
}
