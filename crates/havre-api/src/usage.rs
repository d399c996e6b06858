//! Use of the disk: `GET /system/df`.

#![expect(missing_docs, reason = "the fields are described by the Engine API definition")]

use serde::{Deserialize, Serialize};

use crate::container::ContainerSummary;
use crate::image::ImageSummary;
use crate::wire::wire;

wire! {
    /// The answer since API 1.52, and that of older versions, which a reader tells by what is there.
    pub struct DiskUsageResponse {
        omit image_usage: Option<Usage<ImageSummary>>,
        omit container_usage: Option<Usage<ContainerSummary>>,
        omit volume_usage: Option<Usage<serde_json::Value>>,
        omit build_cache_usage: Option<Usage<serde_json::Value>>,
        omit layers_size: i64,
        omit images: Option<Vec<ImageSummary>>,
        omit containers: Option<Vec<ContainerSummary>>,
        omit volumes: Option<Vec<serde_json::Value>>,
        omit build_cache: Option<Vec<serde_json::Value>>,
    }
}

/// What the objects of one kind take.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(default, rename_all = "PascalCase")]
pub struct Usage<T> {
    pub active_count: i64,
    pub total_count: i64,
    pub reclaimable: i64,
    pub total_size: i64,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub items: Option<Vec<T>>,
}
