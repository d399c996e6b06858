//! Images: listing, inspection, removal, history.

#![expect(missing_docs, reason = "the fields are described by the Engine API definition")]

use std::collections::BTreeMap;

use crate::Empty;
use crate::container::HealthConfig;
use crate::wire::wire;

wire! {
    /// One line of `GET /images/json`.
    pub struct ImageSummary {
        /// -1 when not counted.
        containers: i64,
        created: i64,
        id: String,
        labels: Option<BTreeMap<String, String>>,
        parent_id: String,
        omit descriptor: Option<Descriptor>,
        repo_digests: Option<Vec<String>>,
        repo_tags: Option<Vec<String>>,
        /// -1 when not computed.
        shared_size: i64,
        size: i64,
        /// Before API 1.44.
        omit virtual_size: i64,
    }

    /// Answer of `GET /images/{name}/json`.
    pub struct ImageInspect {
        id: String,
        repo_tags: Option<Vec<String>>,
        repo_digests: Option<Vec<String>>,
        omit parent: String,
        omit comment: String,
        omit created: String,
        /// Before API 1.52 printed even when empty.
        omit docker_version: Option<String>,
        omit author: String,
        config: Option<ImageConfig>,
        architecture: String,
        omit variant: String,
        os: String,
        omit os_version: String,
        size: i64,
        /// Before API 1.44.
        omit virtual_size: i64,
        omit graph_driver: Option<GraphDriver>,
        #[serde(rename = "RootFS")]
        root_fs: RootFs,
        metadata: Metadata,
        omit descriptor: Option<Descriptor>,
    }

    /// What an image gives a container by default.
    pub struct ImageConfig {
        /// The fields Docker dropped from images in API 1.50 stay empty.
        omit user: String,
        omit exposed_ports: Option<BTreeMap<String, Empty>>,
        omit env: Option<Vec<String>>,
        omit entrypoint: Option<Vec<String>>,
        omit cmd: Option<Vec<String>>,
        omit volumes: Option<BTreeMap<String, Empty>>,
        omit working_dir: String,
        omit labels: Option<BTreeMap<String, String>>,
        omit stop_signal: String,
        omit args_escaped: bool,
        omit healthcheck: Option<HealthConfig>,
        omit on_build: Option<Vec<String>>,
        omit shell: Option<Vec<String>>,
    }

    /// The storage behind an image or a container.
    pub struct GraphDriver {
        data: Option<BTreeMap<String, String>>,
        name: String,
    }

    /// The layers of an image.
    pub struct RootFs {
        #[serde(rename = "Type")]
        kind: String,
        omit layers: Option<Vec<String>>,
    }

    /// What the daemon knows about an image beside its content.
    pub struct Metadata {
        last_tag_time: String,
    }

    /// One entry of the answer of `DELETE /images/{name}`: exactly one of the two is set.
    pub struct DeleteResponse {
        omit deleted: String,
        omit untagged: String,
    }

    /// One entry of `GET /images/{name}/history`.
    pub struct HistoryItem {
        comment: String,
        created: i64,
        created_by: String,
        id: String,
        size: i64,
        tags: Option<Vec<String>>,
    }

    /// Answer of `POST /images/prune`.
    pub struct PruneResponse {
        images_deleted: Option<Vec<DeleteResponse>>,
        space_reclaimed: u64,
    }

    /// An OCI content descriptor.
    pub struct Descriptor {
        #[serde(rename = "mediaType")]
        media_type: String,
        #[serde(rename = "digest")]
        digest: String,
        #[serde(rename = "size")]
        size: i64,
        #[serde(rename = "urls")]
        omit urls: Option<Vec<String>>,
        #[serde(rename = "annotations")]
        omit annotations: Option<BTreeMap<String, String>>,
        #[serde(rename = "data")]
        omit data: Option<String>,
        #[serde(rename = "platform")]
        omit platform: Option<Platform>,
        #[serde(rename = "artifactType")]
        omit artifact_type: String,
    }

    /// An OCI platform.
    pub struct Platform {
        #[serde(rename = "architecture")]
        architecture: String,
        #[serde(rename = "os")]
        os: String,
        #[serde(rename = "os.version")]
        omit os_version: String,
        #[serde(rename = "os.features")]
        omit os_features: Option<Vec<String>>,
        #[serde(rename = "variant")]
        omit variant: String,
    }
}
