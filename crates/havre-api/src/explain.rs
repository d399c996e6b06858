//! Why a packet would or would not arrive: `GET /system/network/explain`, which only Havre has.

#![expect(missing_docs, reason = "the fields are described in docs/network-drivers.md")]

use crate::wire::wire;

wire! {
    pub struct ExplainResponse {
        /// `passes`, `blocked` or `unknown`.
        verdict: String,
        summary: String,
        hops: Vec<ExplainHop>,
    }

    /// One step of the way.
    pub struct ExplainHop {
        /// `name`, `route`, `bridge`, `firewall`, `others` or `port`.
        at: String,
        verdict: String,
        told: String,
    }
}
