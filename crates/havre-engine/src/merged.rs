//! A container's request merged with its image's configuration: what will really run. Pure.
//!
//! Invariant: the rules are Docker's: an entry point given by the user discards the image's command;
//! variables of the user win over the image's; the image's working directory, user and stop signal
//! apply where the user gave none.

use std::collections::BTreeSet;

use havre_net::ports::Port;
use havre_oci::image::ContainerConfig as ImageConfig;
use serde::{Deserialize, Serialize};

use crate::EngineError;
use crate::spec::ContainerSpec;

/// The program path of a container whose image sets none.
const DEFAULT_PATH: &str = "PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";
/// SIGTERM.
const DEFAULT_STOP: i32 = 15;

/// What will run.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Merged {
    /// The entry point in force, as inspection shows it.
    pub entrypoint: Option<Vec<String>>,
    /// The command in force, as inspection shows it.
    pub command: Option<Vec<String>>,
    /// Variables of image and user, without those the engine adds.
    pub env: Vec<String>,
    /// Docker's user text.
    pub user: String,
    /// Absolute; empty for `/`.
    pub working_dir: String,
    /// Labels of image and user.
    pub labels: std::collections::BTreeMap<String, String>,
    /// The signal that asks it to stop.
    pub stop_signal: i32,
    /// Ports that image and user say are used.
    #[serde(default)]
    pub exposed: Vec<Port>,
}

impl Merged {
    /// Merges; refuses a container without any command.
    pub fn new(spec: &ContainerSpec, image: &ImageConfig) -> Result<Self, EngineError> {
        let (entrypoint, command) = match &spec.entrypoint {
            // Docker's clients clear an entry point with one empty word.
            Some(words) if words.is_empty() || (words.len() == 1 && words.iter().all(String::is_empty)) => {
                (None, spec.command.clone())
            }
            Some(words) => (Some(words.clone()), spec.command.clone()),
            None => {
                let command = match &spec.command {
                    Some(command) if !command.is_empty() => Some(command.clone()),
                    _ => image.cmd.clone(),
                };
                (image.entrypoint.clone().filter(|words| !words.is_empty()), command)
            }
        };
        let words = entrypoint.as_ref().map_or(0, Vec::len) + command.as_ref().map_or(0, Vec::len);
        if words == 0 {
            return Err(EngineError::Invalid("no command specified".into()));
        }
        let mut env = image.env.clone();
        for entry in &spec.env {
            set_variable(&mut env, entry);
        }
        let mut labels = image.labels.clone();
        labels.extend(spec.labels.clone());
        let stop_signal = match (spec.stop_signal, image.stop_signal.as_str()) {
            (Some(signal), _) => signal,
            (None, "") => DEFAULT_STOP,
            (None, text) => crate::signal::parse(text)?,
        };
        let ranges = image.exposed_ports.keys().filter_map(|text| Port::range(text));
        let of_image = ranges.flat_map(|(first, last)| {
            (first.number..=last.number).map(move |number| Port { number, ..first })
        });
        let exposed: BTreeSet<Port> = of_image.chain(spec.exposed.iter().copied()).collect();
        let or_image = |own: &str, image: &str| if own.is_empty() { image } else { own }.to_owned();
        Ok(Self {
            entrypoint,
            command,
            env,
            user: or_image(&spec.user, &image.user),
            working_dir: or_image(&spec.working_dir, &image.working_dir),
            labels,
            stop_signal,
            exposed: exposed.into_iter().collect(),
        })
    }

    /// Program and arguments.
    #[must_use]
    pub fn args(&self) -> Vec<String> {
        self.entrypoint.iter().flatten().chain(self.command.iter().flatten()).cloned().collect()
    }

    /// The environment of the first process: the engine's variables first, as Docker orders them.
    #[must_use]
    pub fn environment(&self, hostname: &str, tty: bool) -> Vec<String> {
        self.environment_with(hostname, tty, Vec::new())
    }

    /// The same with variables that come from elsewhere; image and user win over them.
    #[must_use]
    pub fn environment_with(&self, hostname: &str, tty: bool, more: Vec<String>) -> Vec<String> {
        let mut env = vec![DEFAULT_PATH.to_owned(), format!("HOSTNAME={hostname}")];
        if tty {
            env.push("TERM=xterm".to_owned());
        }
        env.extend(more);
        for entry in &self.env {
            set_variable(&mut env, entry);
        }
        env
    }
}

/// `NAME=value` replaces or appends; `NAME` alone removes.
pub(crate) fn set_variable(env: &mut Vec<String>, entry: &str) {
    let name = entry.split('=').next().unwrap_or(entry);
    let same = |other: &String| other.split('=').next() == Some(name);
    if !entry.contains('=') {
        env.retain(|other| !same(other));
    } else if let Some(slot) = env.iter_mut().find(|other| same(other)) {
        entry.clone_into(slot);
    } else {
        env.push(entry.to_owned());
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn words(text: &str) -> Option<Vec<String>> {
        Some(text.split_whitespace().map(str::to_owned).collect())
    }

    fn image() -> ImageConfig {
        ImageConfig {
            entrypoint: words("/entry -x"),
            cmd: words("serve all"),
            env: words("A=1 B=2").unwrap(),
            ..ImageConfig::default()
        }
    }

    #[test]
    fn ports_of_image_and_user_are_exposed() {
        let text = r#"{"Cmd":["a"],"ExposedPorts":{"80/tcp":{},"53-54/udp":{},"nonsense":{}}}"#;
        let image: ImageConfig = serde_json::from_str(text).unwrap();
        let exposed =
            Port::range("80").into_iter().chain(Port::range("9/sctp")).map(|(port, _)| port).collect();
        let merged = Merged::new(&ContainerSpec { exposed, ..ContainerSpec::default() }, &image).unwrap();
        let shown: Vec<String> = merged.exposed.iter().map(ToString::to_string).collect();
        assert_eq!(shown, ["9/sctp", "53/udp", "54/udp", "80/tcp"]);
    }

    #[test]
    fn entry_point_and_command_follow_docker() {
        let args = |entrypoint, command| {
            let spec = ContainerSpec { entrypoint, command, ..ContainerSpec::default() };
            Merged::new(&spec, &image()).map(|merged| merged.args().join(" ")).unwrap_or_default()
        };
        assert_eq!(args(None, None), "/entry -x serve all");
        assert_eq!(args(None, words("once")), "/entry -x once");
        assert_eq!(args(words("sh"), None), "sh");
        assert_eq!(args(words("sh"), words("-c ls")), "sh -c ls");
        assert_eq!(args(Some(vec![String::new()]), words("ls")), "ls");
        assert_eq!(args(Some(Vec::new()), None), "", "nothing to run is refused");
    }

    #[test]
    fn variables_of_the_user_win_and_a_bare_name_removes() {
        let spec = ContainerSpec { env: words("B=3 A C=4 PATH=/x").unwrap(), ..ContainerSpec::default() };
        let merged = Merged::new(&spec, &image()).unwrap();
        assert_eq!(merged.env, ["B=3", "C=4", "PATH=/x"]);
        assert_eq!(merged.environment("h", true), ["PATH=/x", "HOSTNAME=h", "TERM=xterm", "B=3", "C=4"]);
    }
}
