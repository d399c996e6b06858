//! The form of a description (CDI specification 0.3 to 1.0, as JSON).
//!
//! Invariant: a document that parses is one that can be applied, or whose application names what it cannot do;
//! an unknown field makes the whole file unusable, because leaving an edit out would make a broken device.

use std::collections::BTreeMap;
use std::io::Read as _;
use std::path::Path;

use serde::Deserialize;

/// More than any description needs.
const LARGEST: u64 = 4 << 20;

/// One file.
#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub(super) struct Document {
    cdi_version: String,
    pub(super) kind: String,
    #[serde(default, rename = "annotations")]
    _annotations: BTreeMap<String, String>,
    #[serde(default)]
    pub(super) devices: Vec<Device>,
    #[serde(default)]
    pub(super) container_edits: Edits,
}

/// One device.
#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub(super) struct Device {
    pub(super) name: String,
    #[serde(default, rename = "annotations")]
    _annotations: BTreeMap<String, String>,
    #[serde(default)]
    pub(super) container_edits: Edits,
}

/// What changes in a container.
#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
pub(super) struct Edits {
    pub(super) env: Vec<String>,
    pub(super) device_nodes: Vec<Node>,
    pub(super) mounts: Vec<Mount>,
    pub(super) hooks: Vec<Hook>,
    #[serde(rename = "additionalGids")]
    pub(super) additional_gids: Vec<u32>,
    pub(super) intel_rdt: Option<serde_json::Value>,
    pub(super) net_devices: Vec<serde_json::Value>,
}

/// A device node.
#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
pub(super) struct Node {
    pub(super) path: String,
    pub(super) host_path: String,
    #[serde(rename = "type")]
    pub(super) kind: String,
    pub(super) major: i64,
    pub(super) minor: i64,
    pub(super) file_mode: Option<u32>,
    pub(super) permissions: String,
    pub(super) uid: Option<u32>,
    pub(super) gid: Option<u32>,
}

/// A mount.
#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
pub(super) struct Mount {
    pub(super) host_path: String,
    pub(super) container_path: String,
    pub(super) options: Vec<String>,
    #[serde(rename = "type")]
    pub(super) kind: String,
}

/// A program to run.
#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
pub(super) struct Hook {
    pub(super) hook_name: String,
    pub(super) path: String,
    pub(super) args: Vec<String>,
    pub(super) env: Vec<String>,
    pub(super) timeout: Option<i64>,
}

impl Document {
    /// Reads a file; the error is for the log.
    pub(super) fn read(path: &Path) -> Result<Self, String> {
        let file = std::fs::File::open(path).map_err(|error| error.to_string())?;
        // A FIFO would never end.
        if !file.metadata().is_ok_and(|meta| meta.is_file()) {
            return Err("it is no regular file".into());
        }
        let mut text = Vec::new();
        file.take(LARGEST + 1).read_to_end(&mut text).map_err(|error| error.to_string())?;
        if u64::try_from(text.len()).unwrap_or(u64::MAX) > LARGEST {
            return Err("it is larger than 4 MiB".into());
        }
        let document: Self = serde_json::from_slice(&text).map_err(|error| error.to_string())?;
        document.check().map(|()| document)
    }

    fn check(&self) -> Result<(), String> {
        let known = ["0.3.", "0.4.", "0.5.", "0.6.", "0.7.", "0.8.", "1.0.", "1.1."];
        if !known.iter().any(|version| self.cdi_version.starts_with(version)) {
            return Err(format!("unknown version {:?}", self.cdi_version));
        }
        let (vendor, class) = self.kind.split_once('/').unwrap_or_default();
        let word = |text: &str, more: &str| {
            text.starts_with(|c: char| c.is_ascii_alphanumeric())
                && text.ends_with(|c: char| c.is_ascii_alphanumeric())
                && text.chars().all(|c| c.is_ascii_alphanumeric() || more.contains(c))
        };
        if !word(vendor, "_-.") || !word(class, "_-") {
            return Err(format!("invalid kind {:?}: want vendor/class", self.kind));
        }
        match self.devices.iter().find(|device| !word(&device.name, "_-.:")) {
            Some(device) => Err(format!("invalid name of a device: {:?}", device.name)),
            None => Ok(()),
        }
    }
}
