//! Events.

#![expect(missing_docs, reason = "the fields are described by the Engine API definition")]

use std::collections::BTreeMap;

use crate::wire::wire;

wire! {
    /// One line of `GET /events`.
    pub struct EventMessage {
        /// `status`, `id` and `from` repeat the rest for clients before API 1.22.
        #[serde(rename = "status")]
        omit status: String,
        #[serde(rename = "id")]
        omit id: String,
        #[serde(rename = "from")]
        omit from: String,
        #[serde(rename = "Type")]
        kind: String,
        action: String,
        actor: EventActor,
        #[serde(rename = "scope")]
        omit scope: String,
        #[serde(rename = "time")]
        omit time: i64,
        #[serde(rename = "timeNano")]
        omit time_nano: i64,
    }

    /// What an event happened to.
    pub struct EventActor {
        #[serde(rename = "ID")]
        id: String,
        attributes: BTreeMap<String, String>,
    }
}
