//! Proxies that the user's `config.json` gives to every new container, by daemon or by `default`.

use std::collections::BTreeMap;

use serde::Deserialize;

/// The proxies for the containers of a daemon.
#[derive(Debug, Default, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub(crate) struct Proxies {
    http_proxy: String,
    https_proxy: String,
    no_proxy: String,
    ftp_proxy: String,
    all_proxy: String,
}

/// Adds the variables that programs read, in both spellings, unless the user has set them.
pub(crate) fn add(env: &mut Vec<String>, all: &BTreeMap<String, Proxies>, daemon: &str) {
    let Some(proxies) = all.get(daemon).or_else(|| all.get("default")) else { return };
    let values = [
        ("HTTP_PROXY", &proxies.http_proxy),
        ("HTTPS_PROXY", &proxies.https_proxy),
        ("NO_PROXY", &proxies.no_proxy),
        ("FTP_PROXY", &proxies.ftp_proxy),
        ("ALL_PROXY", &proxies.all_proxy),
    ];
    for (name, value) in values.into_iter().filter(|(_, value)| !value.is_empty()) {
        for name in [name.to_owned(), name.to_lowercase()] {
            let is_set = |entry: &String| entry.split('=').next() == Some(name.as_str());
            if !env.iter().any(is_set) {
                env.push(format!("{name}={value}"));
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn proxies_belong_to_a_daemon_and_give_way_to_the_user() {
        let text = r#"{"default":{"httpProxy":"http://a"},"unix:///s":{"noProxy":"x","allProxy":"y"}}"#;
        let all = serde_json::from_str(text).unwrap();
        let mut env = vec!["http_proxy=".to_owned(), "A=1".to_owned()];
        add(&mut env, &all, "tcp://b:1");
        assert_eq!(env, ["http_proxy=", "A=1", "HTTP_PROXY=http://a"]);
        let mut env = vec![];
        add(&mut env, &all, "unix:///s");
        assert_eq!(env, ["NO_PROXY=x", "no_proxy=x", "ALL_PROXY=y", "all_proxy=y"]);
    }
}
