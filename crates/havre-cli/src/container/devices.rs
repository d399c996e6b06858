//! `--gpus`, and `--device` with the name of a described device (CDI): what drivers are asked for.

use std::collections::BTreeMap;

use havre_api::host::DeviceRequest;

use super::mounts::fields;
use crate::spec::Args;

/// Whether a text is `vendor/class=name`; everything else is a path.
pub(super) fn is_described(text: &str) -> bool {
    let word = |text: &str, more: &str| {
        text.starts_with(|c: char| c.is_ascii_alphanumeric())
            && text.ends_with(|c: char| c.is_ascii_alphanumeric())
            && text.chars().all(|c| c.is_ascii_alphanumeric() || more.contains(c))
    };
    let Some((kind, name)) = text.split_once('=') else { return false };
    let Some((vendor, class)) = kind.split_once('/') else { return false };
    vendor.starts_with(|c: char| c.is_ascii_alphabetic())
        && word(vendor, "_-.")
        && word(class, "_-")
        && word(name, "_-.:")
}

/// All requests; none when nothing was asked for.
pub(super) fn requests(args: &Args, described: &[&String]) -> Result<Option<Vec<DeviceRequest>>, String> {
    let mut list = Vec::new();
    if args.given("gpus") {
        let text = args.text("gpus");
        list.push(
            gpus(text)
                .map_err(|reason| format!("invalid argument \"{text}\" for \"--gpus\" flag: {reason}"))?,
        );
    }
    if !described.is_empty() {
        list.push(DeviceRequest {
            driver: "cdi".into(),
            device_ids: Some(described.iter().map(|id| (*id).clone()).collect()),
            ..DeviceRequest::default()
        });
    }
    Ok((!list.is_empty()).then_some(list))
}

fn count(text: &str) -> Result<i64, String> {
    if text == "all" {
        return Ok(-1);
    }
    text.parse().map_err(|_| {
        format!("invalid count ({text}): value must be either \"all\" or an integer: invalid syntax")
    })
}

/// Reads `all`, `2`, or `device=0,capabilities=utility`.
fn gpus(text: &str) -> Result<DeviceRequest, String> {
    let mut request = DeviceRequest::default();
    let mut seen: Vec<String> = Vec::new();
    for field in fields(text)? {
        let (key, value) = field.split_once('=').map_or((field.as_str(), None), |(k, v)| (k, Some(v)));
        if seen.iter().any(|other| other == key) {
            return Err(format!("gpu request key '{key}' can be specified only once"));
        }
        seen.push(key.to_owned());
        let Some(value) = value else {
            seen.push("count".into());
            request.count = count(key)?;
            continue;
        };
        let words = || value.split(',').map(str::to_owned).collect::<Vec<_>>();
        match key {
            "driver" => value.clone_into(&mut request.driver),
            "count" => request.count = count(value)?,
            "device" => request.device_ids = Some(words()),
            "capabilities" => {
                request.capabilities = Some(vec![words().into_iter().chain(["gpu".into()]).collect()]);
            }
            "options" => {
                let pairs = fields(value).map_err(|error| format!("failed to read gpu options: {error}"))?;
                let pairs = pairs.iter().map(|pair| pair.split_once('=').unwrap_or((pair, "")));
                request.options = Some(pairs.map(|(name, value)| (name.into(), value.into())).collect());
            }
            _ => return Err(format!("unexpected key '{key}' in '{field}'")),
        }
    }
    if request.device_ids.is_none() && !seen.iter().any(|key| key == "count") {
        request.count = 1;
    }
    request.options.get_or_insert_with(BTreeMap::new);
    request.capabilities.get_or_insert_with(|| vec![vec!["gpu".into()]]);
    Ok(request)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_of_described_devices_are_told_from_paths() {
        for name in ["vendor.com/class=name", "nvidia.com/gpu=0", "v/c=all", "v/c=a:b"] {
            assert!(is_described(name), "{name}");
        }
        for path in ["/dev/null", "/dev/a=b", "/dev/a:/dev/b:r", "v/c", "v/c=", "-v/c=a", "v=c"] {
            assert!(!is_described(path), "{path}");
        }
    }

    #[test]
    fn requests_for_gpus_are_read_as_docker_reads_them() {
        let all = gpus("all").unwrap();
        assert_eq!((all.count, all.capabilities.unwrap()), (-1, vec![vec!["gpu".to_owned()]]));
        assert_eq!(gpus("2").unwrap().count, 2);
        assert_eq!(gpus("driver=x").unwrap().count, 1);
        let some = gpus("\"device=0,1\",capabilities=utility,options=a=b").unwrap();
        assert_eq!(some.device_ids.unwrap(), ["0", "1"]);
        assert_eq!(some.capabilities.unwrap(), [["utility", "gpu"]]);
        assert_eq!((some.count, some.options.unwrap()["a"].as_str()), (0, "b"));
        for (bad, why) in [
            ("foo", "invalid count (foo): value must be either \"all\" or an integer: invalid syntax"),
            ("count=1,count=2", "gpu request key 'count' can be specified only once"),
            ("x=y", "unexpected key 'x' in 'x=y'"),
        ] {
            assert_eq!(gpus(bad).unwrap_err(), why);
        }
    }
}
