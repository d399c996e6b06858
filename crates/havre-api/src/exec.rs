//! Exec: creation, start, inspection.

#![expect(missing_docs, reason = "the fields are described by the Engine API definition")]

use crate::wire::wire;

wire! {
    /// Body of `POST /containers/{id}/exec`.
    pub struct ExecCreateRequest {
        user: String,
        privileged: bool,
        tty: bool,
        omit console_size: Option<[u32; 2]>,
        attach_stdin: bool,
        attach_stderr: bool,
        attach_stdout: bool,
        detach_keys: String,
        env: Option<Vec<String>>,
        working_dir: String,
        words cmd: Option<Vec<String>>,
    }

    /// Body of `POST /exec/{id}/start`.
    pub struct ExecStartRequest {
        detach: bool,
        tty: bool,
        omit console_size: Option<[u32; 2]>,
    }

    /// Answer of `GET /exec/{id}/json`.
    pub struct ExecInspect {
        #[serde(rename = "ID")]
        id: String,
        running: bool,
        exit_code: Option<i64>,
        process_config: ProcessConfig,
        open_stdin: bool,
        open_stderr: bool,
        open_stdout: bool,
        can_remove: bool,
        #[serde(rename = "ContainerID")]
        container_id: String,
        detach_keys: String,
        pid: i64,
    }

    /// The process of an exec; its fields are lower case in Docker's JSON.
    pub struct ProcessConfig {
        #[serde(rename = "tty")]
        tty: bool,
        #[serde(rename = "entrypoint")]
        entrypoint: String,
        #[serde(rename = "arguments")]
        arguments: Vec<String>,
        #[serde(rename = "privileged")]
        omit privileged: Option<bool>,
        #[serde(rename = "user")]
        omit user: String,
    }
}
