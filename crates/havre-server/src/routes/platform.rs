//! The `platform` and `platforms` parameters of image endpoints.
//!
//! An image here is of one platform, so a parameter that names another finds nothing, as Docker says it
//! when it has one platform of an image only.

use havre_base::ErrorKind;
use havre_engine::Engine;
use havre_oci::Platform;

use crate::error::Refusal;
use crate::router::Call;

/// A platform as the API writes it: a JSON object, or `os/architecture/variant` of older clients.
fn parse(name: &str, text: &str) -> Result<Platform, Refusal> {
    if !text.starts_with('{') {
        return Platform::parse(text).map_err(|error| Refusal::invalid(error.to_string()));
    }
    let wire: havre_api::image::Platform = serde_json::from_str(text)
        .map_err(|error| Refusal::invalid(format!("invalid {name} {text:?}: {error}")))?;
    let mut whole = wire.os;
    for part in [&wire.architecture, &wire.variant] {
        if !part.is_empty() {
            whole = format!("{whole}/{part}");
        }
    }
    Platform::parse(&whole).map_err(|error| Refusal::invalid(error.to_string()))
}

/// The platforms a request names.
pub(crate) fn wanted(call: &Call, name: &str) -> Result<Vec<Platform>, Refusal> {
    call.query.all(name).filter(|text| !text.is_empty()).map(|text| parse(name, text)).collect()
}

/// Refuses a request for another platform than the image's.
pub(crate) fn check(engine: &Engine, image: &str, wanted: &[Platform]) -> Result<(), Refusal> {
    if wanted.is_empty() {
        return Ok(());
    }
    let own = engine.images.resolve(image)?.config.platform();
    match wanted.iter().find(|wanted| !own.matches(wanted)) {
        None => Ok(()),
        Some(other) => Err(Refusal::new(
            ErrorKind::NotFound,
            format!(
                "image with reference {image} was found but does not provide the specified platform ({other}): it is {own}"
            ),
        )),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn platforms_are_read_in_both_forms() {
        let json = parse("platform", r#"{"os":"linux","architecture":"arm","variant":"v7"}"#).unwrap();
        assert_eq!(json, parse("platform", "linux/arm/v7").unwrap());
        for bad in ["{", r#"{"os":"lin ux"}"#, "a/b/c/d", r#"{"architecture":"arm64"}"#] {
            assert!(parse("platform", bad).is_err(), "{bad}");
        }
    }
}
