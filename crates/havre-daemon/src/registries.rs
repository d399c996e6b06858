//! What the configuration says of registries: mirrors, whom to trust without proof, how much at once.

use havre_registry::{Insecure, InvalidSetting, Mirror, Proxies, Settings, TokenServer};

use crate::DaemonError;

/// The part of the configuration that is about registries. A reload replaces it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Asked {
    pub(crate) mirrors: Vec<String>,
    pub(crate) insecure: Vec<String>,
    /// Whose token servers get the keys to a registry of somebody else's: `registry=host`.
    pub(crate) token_servers: Vec<String>,
    /// Layers that come, and that go, at the same time.
    pub(crate) downloads: usize,
    pub(crate) uploads: usize,
    /// How often something is tried.
    pub(crate) tries: u32,
}

impl Asked {
    /// Reads the options; numbers that are none of these are refused as dockerd refuses them.
    pub(crate) fn read(
        mirrors: &[String],
        insecure: &[String],
        token_servers: &[String],
        number: &impl Fn(&str) -> Option<i64>,
    ) -> Result<Self, DaemonError> {
        let count = |name: &str, default: i64| {
            let value = number(name).unwrap_or(default);
            // Zero is Docker's word for its default.
            let value = if value == 0 { default } else { value };
            u32::try_from(value)
                .map_err(|_| DaemonError::Config(format!("invalid {}: {value}", name.replace('-', " "))))
        };
        let size = |count: u32| usize::try_from(count).unwrap_or(usize::MAX);
        Ok(Self {
            mirrors: mirrors.to_vec(),
            insecure: insecure.to_vec(),
            token_servers: token_servers.to_vec(),
            downloads: size(count("max-concurrent-downloads", 3)?),
            uploads: size(count("max-concurrent-uploads", 5)?),
            tries: count("max-download-attempts", 5)?,
        })
    }

    /// Everything that talks to registries needs.
    pub(crate) fn settings(&self, [http, https, none]: &[String; 3]) -> Result<Settings, DaemonError> {
        let invalid = |error: InvalidSetting| DaemonError::Config(error.to_string());
        let mirrors = self.mirrors.iter().map(|text| Mirror::parse(text));
        let insecure = self.insecure.iter().map(|text| Insecure::parse(text));
        let token_servers = self.token_servers.iter().map(|text| TokenServer::parse(text));
        Ok(Settings {
            mirrors: mirrors.collect::<Result<_, _>>().map_err(invalid)?,
            insecure: insecure.collect::<Result<_, _>>().map_err(invalid)?,
            token_servers: token_servers.collect::<Result<_, _>>().map_err(invalid)?,
            proxies: Proxies::parse(http, https, none).map_err(invalid)?,
            tries: self.tries,
            ..Settings::default()
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_and_addresses_are_checked() {
        let token_servers = ["r.test=a.example".to_owned()];
        let asked =
            Asked::read(&["https://m.test".into()], &["10.0.0.0/8".into()], &token_servers, &|_| Some(0))
                .unwrap();
        assert_eq!((asked.downloads, asked.uploads, asked.tries), (3, 5, 5));
        assert_eq!(asked.settings(&Default::default()).unwrap().mirrors.len(), 1);
        assert!(Asked::read(&[], &[], &[], &|_| Some(-1)).is_err());
        let bad = Asked { token_servers: vec!["r.test".into()], ..asked.clone() };
        assert!(bad.settings(&Default::default()).is_err());
        let bad = Asked { mirrors: vec!["m.test".into()], ..asked };
        assert!(bad.settings(&Default::default()).is_err());
    }
}
